package pillion_test

import (
	"context"
	"errors"
	"testing"

	pillion "github.com/pillion/pillion/clients/go"
	"github.com/pillion/pillion/clients/go/internal/nodes"
)

// store is a key-value store, and a little more.
type store struct {
	pillion.Callbacks
	values map[string]any
	held   pillion.From
	holds  chan struct{}
	ended  chan string
}

func (s *store) Init(context.Context, *pillion.Process) error {
	s.values = make(map[string]any)
	return nil
}

func (s *store) HandleCall(ctx context.Context, body pillion.Body, from pillion.From) (any, error) {
	ask, err := pillion.Decode[[]any](body)
	if err != nil {
		return nil, err
	}
	switch ask[0] {
	case "get":
		return s.values[ask[1].(string)], nil
	case "hold":
		s.held = from
		if s.holds != nil {
			close(s.holds)
			s.holds = nil
		}
		return pillion.NoReply, nil
	case "stop":
		return "ok", pillion.Stop("normal")
	case "panic":
		panic("it broke")
	case "parts":
		for part := range 3 {
			if err := from.Part(ctx, part); err != nil {
				return nil, err
			}
		}
		return "end", nil
	}
	return nil, &pillion.Exception{Class: "Boom", Reason: "it broke"}
}

func (s *store) HandleCast(ctx context.Context, body pillion.Body) error {
	ask, err := pillion.Decode[[]any](body)
	if err != nil {
		return err
	}
	switch ask[0] {
	case "set":
		s.values[ask[1].(string)] = ask[2]
	case "delete":
		delete(s.values, ask[1].(string))
	case "release":
		return s.held.Reply(ctx, ask[1])
	}
	return nil
}

func (s *store) Terminate(reason string) {
	if s.ended != nil {
		s.ended <- reason
	}
}

func TestAGenServerAnswersCallsAndSeesCastsInTheirOrder(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	must(a.Start(ctx, &store{}, pillion.WithName("primary_store")))
	ok(t, b.Cast(ctx, "primary_store", []any{"set", "foo", "bar"}))
	if got := must(pillion.Call[any](ctx, b.Process, "primary_store", []any{"get", "foo"})); got != "bar" {
		t.Fatal(got)
	}
	ok(t, b.Cast(ctx, "primary_store", []any{"delete", "foo"}))
	if got := must(pillion.Call[any](ctx, b.Process, "primary_store", []any{"get", "foo"})); got != nil {
		t.Fatal(got)
	}
}

func TestAReplyMayComeLaterAndInParts(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	must(a.Start(ctx, &store{}, pillion.WithName("store")))
	done := make(chan any, 1)
	go func() {
		got, err := pillion.Call[any](ctx, b.Process, "store", []any{"hold"})
		if err != nil {
			got = err
		}
		done <- got
	}()
	for {
		// The call is there first, or the release answers nobody, and comes again.
		ok(t, b.Cast(ctx, "store", []any{"release", 7}))
		must(b.Call(ctx, "store", []any{"get", "x"}))
		select {
		case got := <-done:
			if got != int64(7) {
				t.Fatal(got)
			}
		default:
			continue
		}
		break
	}
	var parts []any
	for part, err := range b.Stream(ctx, "store", []any{"parts"}) {
		ok(t, err)
		parts = append(parts, part.Value())
	}
	if len(parts) != 4 || parts[0] != int64(0) || parts[3] != "end" {
		t.Fatal(parts)
	}
}

func TestAnErrorOfAGenServerIsRaisedToTheCallerAndEndsTheProcess(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	for _, ask := range []string{"boom", "panic"} {
		s := &store{ended: make(chan string, 1)}
		p := must(a.Start(ctx, s, pillion.WithName(ask)))
		ref := must(b.Monitor(ctx, ask))
		_, err := b.Call(ctx, ask, []any{ask})
		var failure *pillion.Error
		if !errors.Is(err, pillion.ErrException) || !errors.As(err, &failure) || failure.Reason != "it broke" || !failure.MaybeApplied {
			t.Fatalf("%v", err)
		}
		if ask == "panic" && (failure.Class != "panic" || failure.Stack == "") {
			t.Fatalf("%+v", failure)
		}
		want := failure.Class + ": it broke"
		if got := <-s.ended; got != want {
			t.Fatal(got)
		}
		if down := must(b.Receive(ctx)); down.Reason != want || down.Ref != ref || down.Name() != ask {
			t.Fatalf("%+v", down)
		}
		<-p.Done()
	}
	s := &store{ended: make(chan string, 1)}
	p := must(a.Start(ctx, s))
	if got := must(pillion.Call[string](ctx, b.Process, p.PID(), []any{"stop"})); got != "ok" {
		t.Fatal(got)
	}
	if got := <-s.ended; got != "normal" {
		t.Fatal(got)
	}
}

type counter struct{ count int }

func (c *counter) Add(_ context.Context, n int) int { c.count += n; return c.count }
func (c *counter) TakeAll() (int, error)            { return c.count, nil }
func (c *counter) Fail() error                      { return errors.New("no pears") }
func (c *counter) Sum(numbers ...float64) (sum float64) {
	for _, n := range numbers {
		sum += n
	}
	return sum
}

func TestServedFunctionsAreCalledWithTheirArguments(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	must(a.ServeMethods(ctx, "counter", &counter{}))
	if got := must(pillion.RPC[int](ctx, b.Process, "any", "counter", "add", 5)); got != 5 {
		t.Fatal(got)
	}
	if got := must(pillion.RPC[int](ctx, b.Process, node.Name(), "counter", "take_all")); got != 5 {
		t.Fatal(got)
	}
	if got := must(pillion.RPC[float64](ctx, b.Process, "any", "counter", "sum", 1, 2.5)); got != 3.5 {
		t.Fatal(got)
	}
	_, err := b.RPC(ctx, "any", "counter", "fail")
	var failure *pillion.Error
	if !errors.Is(err, pillion.ErrException) || !errors.As(err, &failure) || failure.Reason != "no pears" || failure.Class != "error" {
		t.Fatalf("%v", err)
	}
	if _, err := b.RPC(ctx, "any", "counter", "add", "five"); !errors.As(err, &failure) || failure.Class != "badarg" {
		t.Fatalf("%v", err)
	}
	if _, err := b.RPC(ctx, "any", "counter", "nothing"); !errors.Is(err, pillion.ErrUndef) {
		t.Fatalf("%v", err)
	}
}

func TestAFunctionIsCancelledWhenNobodyWaitsForIt(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	a, b := connect(t, node), connect(t, node)
	began, cancelled := make(chan struct{}), make(chan struct{})
	must(a.Serve(ctx, "slow", pillion.Functions{"wait": func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		close(cancelled)
		return ctx.Err()
	}}))
	p := must(b.Spawn(ctx))
	go func() { _, _ = p.RPC(ctx, "any", "slow", "wait") }()
	<-began
	ok(t, p.Exit(ctx, ""))
	<-cancelled
}

func TestATaskGivesItsResultAndATaskThatPanicsIsHeardByItsOwner(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	c := connect(t, node)
	task := must(pillion.Async(ctx, c.Process, func(ctx context.Context, self *pillion.Process) (string, error) {
		event, err := self.Receive(ctx)
		if err != nil {
			return "", err
		}
		return pillion.Decode[string](event.Body)
	}))
	ok(t, c.Send(ctx, task.Process.PID(), "hello"))
	if got := must(task.Await(ctx)); got != "hello" {
		t.Fatal(got)
	}
	owner := must(c.Spawn(ctx, pillion.TrapExit()))
	broken := must(pillion.Async(ctx, owner, func(context.Context, *pillion.Process) (int, error) { panic("it broke") }))
	if _, err := broken.Await(ctx); err == nil {
		t.Fatal("no error")
	}
	if exit := must(owner.Receive(ctx)); exit.Kind != pillion.KindExit || exit.Reason != "panic: it broke" {
		t.Fatalf("%+v", exit)
	}
	killed := must(pillion.Async(ctx, owner, func(ctx context.Context, _ *pillion.Process) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}))
	ok(t, c.Kill(ctx, killed.Process.PID(), "kill"))
	var failure *pillion.Error
	if _, err := killed.Await(ctx); !errors.As(err, &failure) || failure.Code != "exit" || failure.Reason != "killed" {
		t.Fatalf("%v", err)
	}
}
