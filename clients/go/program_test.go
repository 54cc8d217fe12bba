package pillion_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
	"github.com/pillion/pillion/clients/go/internal/nodes"
)

// The test's own program is the store's too, where this is set.
const storeVariable = "TEST_RUNS_STORE"

func init() {
	if os.Getenv(storeVariable) != "" {
		os.Exit(pillion.ExitCode(pillion.Run(context.Background(), &program{}, "primary_store")))
	}
}

// program is the articles' key-value store as a program of its own.
type program struct {
	pillion.Callbacks
	state map[string]any
}

func (s *program) Init(context.Context, *pillion.Process) error {
	s.state = map[string]any{"foo": 1}
	fmt.Println("registered")
	return nil
}

func (s *program) HandleCall(_ context.Context, body pillion.Body, _ pillion.From) (any, error) {
	ask, err := pillion.Decode[[]string](body)
	if err != nil {
		return nil, err
	}
	switch ask[0] {
	case "get":
		return s.state[ask[1]], nil
	case "stop":
		return "ok", pillion.Stop(ask[1])
	case "slow":
		fmt.Println("working")
		time.Sleep(300 * time.Millisecond)
		return ask[1], nil
	}
	return nil, &pillion.Exception{Class: "Boom", Reason: "it broke"}
}

func (s *program) HandleCast(_ context.Context, body pillion.Body) error {
	ask, err := pillion.Decode[[]any](body)
	if err == nil {
		s.state[ask[1].(string)] = ask[2]
	}
	return err
}

func (s *program) Terminate(reason string) { fmt.Println("ended:", reason) }

// running is a store that runs by itself.
type running struct {
	t       *testing.T
	command *exec.Cmd
	lines   *bufio.Reader
	said    bytes.Buffer
}

func start(t *testing.T, node *nodes.Node) *running {
	t.Helper()
	r := &running{t: t, command: exec.Command(must(os.Executable()))}
	r.command.Env = append(os.Environ(), storeVariable+"=1", "PILLION_SOCKET="+node.Socket)
	r.command.Stderr = &r.said
	out := must(r.command.StdoutPipe())
	ok(t, r.command.Start())
	t.Cleanup(func() { _ = r.command.Process.Kill() })
	r.lines = bufio.NewReader(out)
	r.prints("registered")
	return r
}

func (r *running) prints(want string) {
	r.t.Helper()
	if line, err := r.lines.ReadString('\n'); err != nil || line != want+"\n" {
		r.t.Fatalf("%q instead of %q: %v", line, want, err)
	}
}

func (r *running) ends(status int, out, said string) {
	r.t.Helper()
	rest, _ := io.ReadAll(r.lines)
	_ = r.command.Wait()
	if got := r.command.ProcessState.ExitCode(); got != status || string(rest) != out || r.said.String() != said {
		r.t.Fatalf("status %d, %q, %q", got, rest, r.said.String())
	}
}

func down(ctx context.Context, c *pillion.Client, ref uint64) string {
	event := must(c.Receive(ctx, kind(pillion.KindDown), func(event *pillion.Event) bool { return event.Ref == ref }))
	return event.Reason
}

func TestASupervisorStartsAStoreThatCrashedAnewAndLeavesOneThatStopped(t *testing.T) {
	ctx := timed(t)
	node := nodes.New(t).Start("a")
	c := connect(t, node)
	node.Command("host", "primary_store", "--restart", "transient", "--env", storeVariable+"=1", "--", must(os.Executable()))
	before := must(c.Whereis(ctx, "primary_store"))
	ref := must(c.Monitor(ctx, "primary_store"))
	ok(t, c.Cast(ctx, "primary_store", []any{"set", "bar", 2}))
	if got := must(pillion.Call[int](ctx, c.Process, "primary_store", []any{"get", "bar"})); got != 2 {
		t.Fatal(got)
	}
	var failure *pillion.Error
	if _, err := c.Call(ctx, "primary_store", []any{"boom"}); !errors.As(err, &failure) || failure.Class != "Boom" || failure.Reason != "it broke" {
		t.Fatal(err)
	}
	if reason := down(ctx, c, ref); reason != "Boom: it broke" {
		t.Fatal(reason)
	}
	until(t, ctx, func() bool {
		pid, err := c.Whereis(ctx, "primary_store")
		if err != nil || pid == "" || pid == before {
			return false
		}
		got, err := pillion.Call[int](ctx, c.Process, "primary_store", []any{"get", "foo"})
		return err == nil && got == 1
	})
	if got := must(c.Call(ctx, "primary_store", []any{"get", "bar"})).Value(); got != nil {
		t.Fatal(got)
	}
	ref = must(c.Monitor(ctx, "primary_store"))
	must(c.Call(ctx, "primary_store", []any{"stop", "normal"}))
	if reason := down(ctx, c, ref); reason != "normal" {
		t.Fatal(reason)
	}
	until(t, ctx, func() bool {
		var tree struct {
			Tree []struct {
				Children []struct{ Name, State, Last string }
			}
		}
		ok(t, json.Unmarshal([]byte(node.Command("tree", "--json")), &tree))
		child := tree.Tree[0].Children[0]
		return child.Name == "primary_store" && child.State == "stopped" && child.Last == "normal"
	})
	if pid, _ := c.Whereis(ctx, "primary_store"); pid != "" {
		t.Fatal(pid)
	}
}

func TestAFailureOfAProgramIsStatus1AndOneLineThatSaysWhy(t *testing.T) {
	ctx := timed(t)
	node := nodes.New(t).Start("a")
	c := connect(t, node)
	r := start(t, node)
	_, err := c.Call(ctx, "primary_store", []any{"boom"})
	if !errors.Is(err, pillion.ErrException) {
		t.Fatal(err)
	}
	r.ends(1, "ended: Boom: it broke\n", "primary_store has ended: Boom: it broke\n")
	r = start(t, node)
	ok(t, c.Kill(ctx, "primary_store", "out of stock"))
	r.ends(1, "ended: out of stock\n", "primary_store has ended: out of stock\n")
}

func TestAStopThatIsNoFailureIsStatus0(t *testing.T) {
	ctx := timed(t)
	node := nodes.New(t).Start("a")
	c := connect(t, node)
	for _, reason := range strings.Split("normal,shutdown,shutdown: moved", ",") {
		r := start(t, node)
		must(c.Call(ctx, "primary_store", []any{"stop", reason}))
		r.ends(0, "ended: "+reason+"\n", "")
	}
}

func TestSIGTERMAnswersWhatTheProgramWasGivenAndIsStatus0(t *testing.T) {
	ctx := timed(t)
	node := nodes.New(t).Start("a")
	c := connect(t, node)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		r := start(t, node)
		ref := must(c.Monitor(ctx, "primary_store"))
		answer := make(chan any, 1)
		go func() {
			reply, err := c.Call(ctx, "primary_store", []any{"slow", "done"})
			if err != nil {
				answer <- err
			} else {
				answer <- reply.Value()
			}
		}()
		r.prints("working")
		ok(t, r.command.Process.Signal(signal))
		if got := <-answer; got != "done" {
			t.Fatal(got)
		}
		r.ends(0, "ended: shutdown\n", "")
		if reason := down(ctx, c, ref); reason != "shutdown" {
			t.Fatal(reason)
		}
	}
}

func TestANodeThatLeavesEndsTheProgramWithStatus0(t *testing.T) {
	node := nodes.New(t).Start("a")
	r := start(t, node)
	node.Terminate()
	r.ends(0, "ended: shutdown\n", "")
}
