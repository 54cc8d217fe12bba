package pillion_test

import (
	"context"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
	"github.com/pillion/pillion/clients/go/internal/nodes"
)

// patient asks again what was asked while the client had not heard of the end of its node.
func patient[T any](t *testing.T, ask func() (T, error)) T {
	t.Helper()
	for {
		answer, err := ask()
		if !errors.Is(err, pillion.ErrLost) {
			ok(t, err)
			return answer
		}
	}
}

// processes counts what the node holds for the client, but for the client's own process.
func processes(t *testing.T, ctx context.Context, c *pillion.Client) int {
	t.Helper()
	answer := patient(t, func() (pillion.Answer, error) { return c.Request(ctx, "processes", nil, nil) })
	var all []any
	ok(t, answer.Body.Decode(&all))
	return len(all) - 1
}

func holdsNothing(t *testing.T, ctx context.Context, c *pillion.Client) {
	t.Helper()
	for processes(t, ctx, c) > 0 {
		if ctx.Err() != nil {
			t.Fatal("the node holds processes that nobody has")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestWhatIsTooLongForAHeaderIsRefusedAndNothingOfItIsWritten(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	failed := make(chan pillion.Failed, 8)
	c := connect(t, node, pillion.OnFailed(func(f pillion.Failed) { failed <- f }))
	long := strings.Repeat("x", 70_000)
	if err := c.Send(ctx, long, 1); !errors.Is(err, pillion.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
	if _, err := c.Subscribe(ctx, "a", pillion.WithMetadata(long)); !errors.Is(err, pillion.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
	if err := c.Send(ctx, c.PID(), pillion.Bytes(long, nil)); !errors.Is(err, pillion.ErrTooLarge) {
		t.Fatalf("%v", err)
	}
	ok(t, c.Send(ctx, c.PID(), 1, pillion.Confirm()))
	select {
	case f := <-failed:
		t.Fatalf("%+v", f)
	default:
	}
	holdsNothing(t, ctx, c)
}

func TestNumbersBeyond64BitsAreBigIntegers(t *testing.T) {
	huge, _ := new(big.Int).SetString(strings.Repeat("9", 400), 10)
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	for _, n := range []*big.Int{huge, new(big.Int).Neg(huge), new(big.Int).SetUint64(1 << 63)} {
		ok(t, c.Send(ctx, c.PID(), n))
		got, is := must(c.Receive(ctx)).Body.Value().(*big.Int)
		if !is || got.Cmp(n) != 0 {
			t.Fatalf("%v", got)
		}
	}
}

func TestAServerWhoseInitFailsLeavesNothingBehind(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	for _, init := range []func() error{func() error { return errors.New("no") }, func() error { panic("no") }} {
		over, cancel := context.WithCancel(ctx)
		_, err := c.Start(over, &failing{init: func() error { cancel(); return init() }}, pillion.WithName("stock"))
		if err == nil {
			t.Fatal("it runs")
		}
		holdsNothing(t, ctx, c)
	}
	// Nor does it come again with the next node.
	node.Kill()
	node.Restart()
	if at := patient(t, func() (pillion.PID, error) { return c.Whereis(ctx, "stock") }); at != "" {
		t.Fatalf("it is there again: %s", at)
	}
	ok(t, c.Drain(ctx))
}

type failing struct {
	pillion.Callbacks
	init func() error
}

func (f *failing) Init(context.Context, *pillion.Process) error { return f.init() }

func TestWhatIsClosedWithAContextThatHasEndedIsGoneFromTheNode(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node, pillion.Grace(time.Minute))
	over, cancel := context.WithCancel(ctx)
	cancel()
	subscription := must(c.Subscribe(ctx, "shop.*"))
	served := must(c.Serve(ctx, "math", pillion.Functions{"one": func() int { return 1 }}))
	process := must(c.Spawn(ctx, pillion.WithName("bot")))
	_ = subscription.Close(over)
	_ = served.Close(over)
	_ = process.Exit(over, "")
	holdsNothing(t, ctx, c)
	node.Kill()
	node.Restart()
	if at := patient(t, func() (pillion.PID, error) { return c.Whereis(ctx, "bot") }); at != "" {
		t.Fatalf("it was declared again, as %s", at)
	}
	holdsNothing(t, ctx, c)
	// Neither while there is no node, nor while the buffer is full.
	subscription = patient(t, func() (*pillion.Subscription, error) { return c.Subscribe(ctx, "shop.*") })
	node.Kill()
	_ = subscription.Close(over)
	node.Restart()
	holdsNothing(t, ctx, c)
	subscription = patient(t, func() (*pillion.Subscription, error) { return c.Subscribe(ctx, "shop.*") })
	node.Pause()
	full, stop := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop()
	for c.Send(full, "nobody", make([]byte, 100_000)) == nil {
	}
	_ = subscription.Close(over)
	node.Resume()
	holdsNothing(t, ctx, c)
}

func TestAClosedClientSaysSoWhateverIsAskedOfIt(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	before := runtime.NumGoroutine()
	c := connect(t, node)
	process := must(c.Spawn(ctx))
	subscription := must(c.Subscribe(ctx, "a"))
	served := must(c.Serve(ctx, "m", pillion.Functions{}))
	ok(t, c.Close(ctx))
	ok(t, c.Close(ctx))
	for _, err := range []error{c.Send(ctx, "a", 1), process.Send(ctx, "a", 1), second(c.Call(ctx, "a", 1)), second(process.Call(ctx, "a", 1)),
		second(c.Spawn(ctx)), second(process.Receive(ctx)), second(c.Receive(ctx)), process.Register(ctx, "b")} {
		if !errors.Is(err, pillion.ErrClosed) {
			t.Errorf("%v", err)
		}
	}
	ok(t, subscription.Close(ctx))
	ok(t, served.Close(ctx))
	for runtime.NumGoroutine() > before {
		if ctx.Err() != nil {
			t.Fatal("goroutines are left")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestCloseBesideANodeThatHangsEndsWithItsContextAndSaysWhy(t *testing.T) {
	node := nodes.New(t).Start("a")
	c := must(pillion.Connect(timed(t), pillion.Socket(node.Socket)))
	node.Pause()
	short, cancel := context.WithTimeout(timed(t), 50*time.Millisecond)
	defer cancel()
	if err := c.Close(short); !errors.Is(err, pillion.ErrTimeout) || !strings.Contains(err.Error(), "bye") {
		t.Fatalf("%v", err)
	}
	node.Resume()
}

func second[T any](_ T, err error) error { return err }

func TestASocketThatIsNoneIsSaidAsWhatItIs(t *testing.T) {
	place := t.TempDir()
	file := filepath.Join(place, "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	for path, words := range map[string]string{
		place: "is no socket", file: "is no socket", filepath.Join(place, "none"): "pillion up",
		filepath.Join(place, strings.Repeat("x", 120)): "at most 107",
	} {
		begun := time.Now()
		_, err := pillion.Connect(timed(t), pillion.Socket(path), pillion.ConnectTimeout(50*time.Millisecond))
		if err == nil || !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if errors.Is(err, pillion.ErrUnreachable) == (words == "at most 107") {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
	}
}

func TestManySubscriptionsLiveThroughAStormOfRestarts(t *testing.T) {
	const count = 300
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	var all [count]*pillion.Subscription
	var wait sync.WaitGroup
	for i := range count {
		wait.Add(1)
		go func() {
			defer wait.Done()
			all[i] = must(c.Subscribe(ctx, "shop"))
		}()
	}
	wait.Wait()
	// Somebody goes on to send and to call meanwhile.
	storm, calm := context.WithCancel(ctx)
	var busy sync.WaitGroup
	var asked atomic.Int64
	for range 4 {
		busy.Add(1)
		go func() {
			defer busy.Done()
			for storm.Err() == nil {
				_ = c.Send(storm, "nobody", 1, pillion.Lossy())
				_, _ = c.Call(storm, "nobody", 1)
				asked.Add(1)
			}
		}()
	}
	for range 5 {
		node.Kill()
		node.Restart()
		time.Sleep(20 * time.Millisecond)
	}
	calm()
	busy.Wait()
	for _, s := range all {
		for {
			_ = c.Publish(ctx, "shop", "here")
			event, _, err := s.Next(ctx)
			ok(t, err)
			if event.Kind == pillion.KindMessage {
				break
			}
		}
	}
	if n := processes(t, ctx, c); n != count {
		t.Fatalf("the node holds %d", n)
	}
}

func TestPartsBeyond64MiBThatNobodyTakesEndTheAnswer(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	callee, caller := connect(t, node), connect(t, node)
	ok(t, callee.Register(ctx, "store"))
	sent := make(chan error, 1)
	go func() {
		call, err := callee.Receive(ctx)
		part := make([]byte, 1_000_000)
		for n := 0; n < 80 && err == nil; n++ {
			err = call.Part(ctx, part)
		}
		sent <- err
	}()
	taken := 0
	var ended error
	for _, err := range caller.Stream(ctx, "store", "all") {
		if err != nil {
			ended = err
			break
		}
		if taken++; taken == 1 {
			ok(t, <-sent)
			// Behind the last part came this: the client has read all of them.
			_, err := caller.Whereis(ctx, "store")
			ok(t, err)
		}
	}
	if !errors.Is(ended, pillion.ErrOverloaded) || taken < 60 || taken > 70 {
		t.Fatalf("%d parts, then %v", taken, ended)
	}
}
