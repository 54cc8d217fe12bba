package pillion_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
	"github.com/pillion/pillion/clients/go/internal/nodes"
)

func timed(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, node *nodes.Node, options ...pillion.Option) *pillion.Client {
	t.Helper()
	client, err := pillion.Connect(timed(t), append([]pillion.Option{pillion.Socket(node.Socket)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := client.Close(ctx); err != nil && !errors.Is(err, pillion.ErrTimeout) {
			t.Errorf("close: %v", err)
		}
	})
	return client
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("%+v", err))
	}
	return value
}

func kind(kind string) func(*pillion.Event) bool {
	return func(e *pillion.Event) bool { return e.Kind == kind }
}

func TestAMessageArrivesWithItsBodyAndItsSender(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	ok(t, b.Register(ctx, "stock"))
	type product struct {
		Name string `cbor:"name"`
		Qty  int    `cbor:"qty"`
	}
	ok(t, a.Send(ctx, "stock", product{"nike", 30}))
	event := must(b.Receive(ctx))
	got := must(pillion.Decode[product](event.Body))
	if got != (product{"nike", 30}) || event.From != a.PID() || event.Kind != pillion.KindMessage {
		t.Fatalf("%v from %s", got, event.From)
	}
	ok(t, a.Send(ctx, "stock", pillion.Bytes("text/plain", []byte("hello")), pillion.Confirm()))
	event = must(b.Receive(ctx))
	if event.Body.ContentType != "text/plain" || string(event.Body.Data) != "hello" {
		t.Fatalf("%+v", event.Body)
	}
}

func TestAReceiveWithAPredicateLeavesTheOthersInTheirOrder(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	for i := range 10 {
		ok(t, c.Send(ctx, c.PID(), i))
	}
	is := func(want int64) func(*pillion.Event) bool {
		return func(e *pillion.Event) bool { return e.Body.Value() == want }
	}
	for _, want := range []int64{7, 3} {
		event := must(c.Receive(ctx, is(want)))
		if event.Body.Value() != want {
			t.Fatalf("%v", event)
		}
	}
	var rest []any
	for range 8 {
		rest = append(rest, must(c.Receive(ctx)).Body.Value())
	}
	if !slices.Equal(rest, []any{int64(0), int64(1), int64(2), int64(4), int64(5), int64(6), int64(8), int64(9)}) {
		t.Fatalf("%v", rest)
	}
	short, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	if _, err := c.Receive(short); !errors.Is(err, pillion.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
}

func TestWindowsAreRefilledForAsLongAsMessagesAreTaken(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	p := must(c.Spawn(ctx))
	const many = 20000
	go func() {
		for i := range many {
			if c.Send(ctx, p.PID(), i) != nil {
				return
			}
		}
	}()
	for i := range many {
		if got := must(pillion.Decode[int](must(p.Receive(ctx)).Body)); got != i {
			t.Fatalf("%d instead of %d", got, i)
		}
	}
	large := make([]byte, 300*1024)
	go func() {
		for range 20 {
			if c.Send(ctx, p.PID(), large) != nil {
				return
			}
		}
	}()
	for range 20 {
		if got := must(p.Receive(ctx)); len(got.Body.Data) < len(large) {
			t.Fatal("a body was cut")
		}
	}
}

func TestErrorsAreComparedByTheirCodes(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	_, err := c.Call(ctx, "nobody", nil)
	var failure *pillion.Error
	if !errors.Is(err, pillion.ErrNoProc) || errors.Is(err, pillion.ErrTimeout) || !errors.As(err, &failure) || failure.MaybeApplied {
		t.Fatalf("%v", err)
	}
	if err := c.Send(ctx, "nobody", 1, pillion.Confirm()); !errors.Is(err, pillion.ErrNoProc) {
		t.Fatalf("%v", err)
	}
	if _, err := c.Request(ctx, "regsiter", nil, nil); !errors.Is(err, pillion.ErrBadOp) || !strings.Contains(err.Error(), "register") {
		t.Fatalf("%v", err)
	}
	ok(t, c.Register(ctx, "me"))
	if _, err := c.Spawn(ctx, pillion.WithName("me")); !errors.Is(err, pillion.ErrTaken) {
		t.Fatalf("%v", err)
	}
}

func TestADeadlineIsToldToTheNodeAndACancelledCallSaysThatItMayBeApplied(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	ok(t, b.Register(ctx, "slow"))
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := a.Call(short, "slow", 1)
	var failure *pillion.Error
	if !errors.Is(err, pillion.ErrTimeout) || !errors.As(err, &failure) || !failure.MaybeApplied {
		t.Fatalf("%v", err)
	}
	again, stop := context.WithCancel(ctx)
	go func() {
		_, _ = b.Receive(ctx)
		_, _ = b.Receive(ctx)
		stop()
	}()
	_, err = a.Call(again, "slow", 2)
	if !errors.Is(err, pillion.ErrCancelled) || !errors.Is(err, context.Canceled) || !errors.As(err, &failure) || !failure.MaybeApplied {
		t.Fatalf("%v", err)
	}
}

func TestWhatFailsWithoutAnAnswerIsToldToTheApp(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	failed := make(chan pillion.Failed, 1)
	c := connect(t, node, pillion.OnFailed(func(f pillion.Failed) { failed <- f }))
	ok(t, c.Send(ctx, "nobody", 1))
	if f := <-failed; f.Op != "send" || f.To != "nobody" || f.Code != "noproc" || f.Count != 1 {
		t.Fatalf("%+v", f)
	}
}

func TestConnectWaitsForANodeThatStartsLaterAndSaysWhereItLooked(t *testing.T) {
	mesh := nodes.New(t)
	ctx := timed(t)
	path := mesh.Dir() + "/nobody.sock"
	_, err := pillion.Connect(ctx, pillion.Socket(path), pillion.ConnectTimeout(30*time.Millisecond))
	if !errors.Is(err, pillion.ErrUnreachable) || !strings.Contains(err.Error(), path) {
		t.Fatalf("%v", err)
	}
	node := mesh.Start("a")
	node.Kill()
	connected := make(chan error, 1)
	go func() {
		c, err := pillion.Connect(ctx, pillion.Socket(node.Socket), pillion.ConnectTimeout(time.Minute))
		if err == nil {
			err = c.Close(ctx)
		}
		connected <- err
	}()
	node.Restart()
	ok(t, <-connected)
}

func TestAMonitorHearsOfTheEndAndALinkedProcessEndsWithIt(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	watched := must(c.Spawn(ctx, pillion.WithLabel("watched")))
	watcher := must(c.Spawn(ctx))
	tied := must(c.Spawn(ctx))
	trapping := must(c.Spawn(ctx, pillion.TrapExit()))
	ok(t, tied.Link(ctx, watched.PID()))
	ok(t, trapping.Link(ctx, watched.PID()))
	ref := must(watcher.Monitor(ctx, watched.PID()))
	pid := watched.PID()
	ok(t, watched.Exit(ctx, "sold out"))
	down := must(watcher.Receive(ctx))
	if down.Kind != pillion.KindDown || down.Ref != ref || down.Reason != "sold out" || down.From != pid {
		t.Fatalf("%+v", down)
	}
	<-tied.Done()
	if tied.Reason() != "sold out" {
		t.Fatalf("%q", tied.Reason())
	}
	exit := must(trapping.Receive(ctx, kind(pillion.KindExit)))
	if exit.From != pid || exit.Reason != "sold out" {
		t.Fatalf("%+v", exit)
	}
	if _, err := tied.Receive(ctx); !errors.Is(err, pillion.ErrNoProc) {
		t.Fatalf("%v", err)
	}
}

func TestTimersSendLaterAndCanBeTakenBack(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	timer := must(c.SendAfter(ctx, c.PID(), time.Hour, "never"))
	if left, waits, err := timer.Left(ctx); err != nil || !waits || left > time.Hour {
		t.Fatal(left, waits, err)
	}
	if _, waits, err := timer.Cancel(ctx); err != nil || !waits {
		t.Fatal(waits, err)
	}
	must(c.SendAfter(ctx, c.PID(), 5*time.Millisecond, "tick"))
	if must(c.Receive(ctx)).Body.Value() != "tick" {
		t.Fatal("no tick")
	}
}

func TestNothingRunsAnyMoreOnceAClientIsClosed(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	before := runtime.NumGoroutine()
	for range 3 {
		c := must(pillion.Connect(ctx, pillion.Socket(node.Socket)))
		must(c.Start(ctx, &store{}, pillion.WithName("store")))
		must(c.Serve(ctx, "math", pillion.Functions{"add": func(a, b int) int { return a + b }}))
		must(c.Subscribe(ctx, "news.>"))
		must(pillion.Async(ctx, c.Process, func(ctx context.Context, _ *pillion.Process) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}))
		must(pillion.Call[any](ctx, c.Process, "store", []any{"get", "x"}))
		short, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
		_, _ = c.Receive(short)
		cancel()
		ok(t, c.Close(ctx))
		if err := c.Send(ctx, "x", 1); !errors.Is(err, pillion.ErrClosed) {
			t.Fatalf("%v", err)
		}
		if _, err := c.Receive(ctx); !errors.Is(err, pillion.ErrClosed) {
			t.Fatalf("%v", err)
		}
	}
	until := time.Now().Add(20 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(until) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines are left: %s", runtime.NumGoroutine()-before, stacks[:runtime.Stack(stacks, true)])
		}
		runtime.Gosched()
	}
}
