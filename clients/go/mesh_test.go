package pillion_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
	"github.com/pillion/pillion/clients/go/internal/nodes"
)

// two starts two nodes and waits until they are connected.
func two(t *testing.T, ctx context.Context) (a, b *nodes.Node) {
	t.Helper()
	mesh := nodes.New(t)
	a, b = mesh.Start("a"), mesh.Start("b")
	_, err := connect(t, a).Request(ctx, "wait_for", map[string]any{"nodes": []string{b.Name()}, "timeout_ms": 30000}, nil)
	ok(t, err)
	return a, b
}

func TestAppsOfTwoNodesTalkByNameByGroupByTopicAndByPresence(t *testing.T) {
	ctx := timed(t)
	left, right := two(t, ctx)
	a, b := connect(t, left), connect(t, right)
	must(b.Start(ctx, &store{}, pillion.WithName("store")))
	ok(t, a.Cast(ctx, "store@b", []any{"set", "k", 1}))
	if got := must(pillion.Call[int](ctx, a.Process, "store@b", []any{"get", "k"})); got != 1 {
		t.Fatal(got)
	}
	ok(t, b.Register(ctx, "till", pillion.Global()))
	watch := must(a.WatchGroup(ctx, "tills"))
	ok(t, b.Join(ctx, "tills"))
	for event, err := range watch.Events(ctx) {
		ok(t, err)
		if joined, _ := event.Group(); slices.Equal(joined, []string{b.PID()}) {
			break
		}
	}
	news := must(b.Subscribe(ctx, "shop.*", pillion.Sync()))
	here := must(a.WatchPresence(ctx, "room"))
	ok(t, b.Track(ctx, "room", "ann", map[string]any{"at": "desk"}))
	for event, err := range here.Events(ctx) {
		ok(t, err)
		if joins, _ := event.Presence(); len(joins) == 1 && joins[0].Key == "ann" && joins[0].PID == b.PID() {
			var metadata struct{ At string }
			if ok(t, joins[0].Body().Decode(&metadata)); metadata.At != "desk" {
				t.Fatal(metadata)
			}
			break
		}
	}
	reach := must(a.PublishReport(ctx, "shop.tea", 3))
	if reach.Nodes != 1 {
		t.Fatalf("%+v", reach)
	}
	event, more, err := news.Next(ctx)
	if err != nil || !more || event.Topic != "shop.tea" || event.From != a.PID() || event.Body.Value() != int64(3) {
		t.Fatal(event, more, err)
	}
	watched := must(a.WatchNodes(ctx))
	_ = must(a.Monitor(ctx, "store@b"))
	right.Kill()
	if down := must(a.Receive(ctx, kind(pillion.KindDown))); down.Reason != "noconnection" {
		t.Fatalf("%+v", down)
	}
	if event, _, err := watched.Next(ctx); err != nil || event.Kind != pillion.KindNodeDown || event.Node() != right.Name() {
		t.Fatal(event, err)
	}
	if _, err := a.Call(ctx, "store@b", []any{"get", "k"}); !errors.Is(err, pillion.ErrNoConnection) {
		t.Fatal(err)
	}
}

func until(t *testing.T, ctx context.Context, holds func() bool) {
	t.Helper()
	for !holds() {
		if ctx.Err() != nil {
			t.Fatal("it takes too long")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestANodeThatIsKilledUnderLoadIsSurvivedAndWhatWasLostIsReported(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	reports := make(chan pillion.Report, 10)
	broke := make(chan error, 10)
	c := connect(t, node, pillion.OnReport(func(r pillion.Report) { reports <- r }),
		pillion.OnDisconnected(func(err error) { broke <- err }), pillion.OnFailed(func(pillion.Failed) {}))
	holds := make(chan struct{})
	s := must(c.Start(ctx, &store{holds: holds}, pillion.WithName("store")))
	ok(t, c.Register(ctx, "app"))
	must(c.Serve(ctx, "math", pillion.Functions{"add": func(a, b int) int { return a + b }}))
	sub := must(c.Subscribe(ctx, "news"))
	watcher := must(c.Spawn(ctx, pillion.WithName("watcher")))
	ref := must(watcher.Monitor(ctx, "store"))
	before := s.PID()

	// Load: many callers, and one who sends without an answer.
	var lost, maybe, answered, casts atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Add(1)
		go func() {
			defer load.Done()
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, err := pillion.Call[any](ctx, c.Process, "store", []any{"get", "x"})
				var failure *pillion.Error
				switch {
				case err == nil:
					answered.Add(1)
				case errors.As(err, &failure) && failure.Code == "lost":
					lost.Add(1)
					if failure.MaybeApplied {
						maybe.Add(1)
					}
				default:
					t.Errorf("%v", err)
					return
				}
			}
		}()
	}
	load.Add(1)
	go func() {
		defer load.Done()
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := c.Cast(ctx, "nobody", n); err != nil && !errors.Is(err, pillion.ErrLost) {
				t.Errorf("%v", err)
				return
			}
			if casts.Add(1); n%1000 == 999 {
				// The others are to come through as well.
				soon, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				_, _ = c.Whereis(soon, "app")
				cancel()
			}
		}
	}()
	held := make(chan error, 1)
	go func() {
		_, err := c.Call(ctx, "store", []any{"hold"})
		held <- err
	}()
	<-holds
	until(t, ctx, func() bool { return answered.Load() >= 100 })
	// What is cast to a node that hangs is written, and nobody will ever know what became of it.
	node.Pause()
	cast := casts.Load()
	until(t, ctx, func() bool { return casts.Load() >= cast+200 })
	node.Kill()
	<-broke
	node.Restart()
	report := <-reports
	if report.Resumed || report.UnsureCommands == 0 || report.LostCommands != 0 {
		t.Fatalf("%+v", report)
	}
	after := answered.Load()
	until(t, ctx, func() bool { return answered.Load() >= after+100 })
	close(stop)
	load.Wait()
	// What had been given to the callee is lost, and may have been done.
	var failure *pillion.Error
	if err := <-held; !errors.As(err, &failure) || failure.Code != "lost" || !failure.MaybeApplied {
		t.Fatalf("%v", err)
	}
	t.Logf("%+v; %d other calls were lost, %d of them perhaps carried out", report, lost.Load(), maybe.Load())

	// Everything is as it was, but for the pids.
	if s.PID() == before {
		t.Fatal("the pid is the old one")
	}
	if pid := must(c.Whereis(ctx, "app")); pid != c.PID() {
		t.Fatal(pid)
	}
	if got := must(pillion.RPC[int](ctx, c.Process, "any", "math", "add", 1, 2)); got != 3 {
		t.Fatal(got)
	}
	ok(t, c.Publish(ctx, "news", "hello"))
	if gap, _, err := sub.Next(ctx); err != nil || gap.Kind != pillion.KindGap || gap.Reason != "restarted" {
		t.Fatal(gap, err)
	}
	if event, _, err := sub.Next(ctx); err != nil || event.Body.Value() != "hello" {
		t.Fatal(event, err)
	}
	if gap := must(watcher.Receive(ctx)); gap.Kind != pillion.KindGap || gap.Reason != "restarted" {
		t.Fatalf("%+v", gap)
	}
	if down := must(watcher.Receive(ctx)); down.Kind != pillion.KindDown || down.Ref != ref || down.Reason != "noconnection" {
		t.Fatalf("%+v", down)
	}
}

func TestANodeThatIsStoppedIsLeftInOrderAndNoCallIsLost(t *testing.T) {
	mesh := nodes.New(t)
	ctx := timed(t)
	node := mesh.Start("a", "--grace", "30s")
	drained := make(chan struct{})
	server := connect(t, node, pillion.OnDrained(func() { close(drained) }))
	s := &store{ended: make(chan string, 2)}
	must(server.Start(ctx, s, pillion.WithName("store")))
	began, release := make(chan struct{}), make(chan struct{})
	must(server.Serve(ctx, "slow", pillion.Functions{"work": func() string { close(began); <-release; return "done" }}))
	sub := must(server.Subscribe(ctx, "news"))
	caller := connect(t, node)
	result := make(chan error, 1)
	go func() {
		got, err := pillion.RPC[string](ctx, caller.Process, "any", "slow", "work")
		if err == nil && got != "done" {
			err = errors.New(got)
		}
		result <- err
	}()
	<-began
	node.Terminate()
	if got := <-s.ended; got != "shutdown" {
		t.Fatal(got)
	}
	for range sub.Messages(ctx) {
	}
	close(release)
	ok(t, <-result)
	<-drained
	ok(t, node.Wait())
	node.Restart()
	if got := must(pillion.Call[any](ctx, server.Process, "store", []any{"get", "x"})); got != nil {
		t.Fatal(got)
	}
	if _, err := caller.Call(ctx, "store", []any{"get", "x"}); err != nil && !errors.Is(err, pillion.ErrNoProc) {
		t.Fatal(err)
	}
}

func TestWhoDrainsHimselfIsToldSoAndWhoHasACallbackDecides(t *testing.T) {
	node := nodes.New(t).Start("a")
	ctx := timed(t)
	told := make(chan struct{}, 1)
	c := connect(t, node, pillion.OnDraining(func(*pillion.Client) { told <- struct{}{} }))
	ok(t, c.Register(ctx, "app"))
	node.Command("drain", "--wait", "0s")
	<-told
	if pid := must(c.Whereis(ctx, "app")); pid != c.PID() {
		t.Fatal("it left by itself")
	}
	gone := c.Drained()
	ok(t, c.Drain(ctx))
	<-gone
}

func TestTheExamplesAnswerEachOther(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: -short")
	}
	ctx := timed(t)
	a, b := two(t, ctx)
	examples := buildExamples(t)
	examples.serve(a, "product_stock", "serve", "server")
	examples.serve(a, "key_value_store", "serve")
	examples.serve(a, "bot", "serve")
	examples.serve(b, "pos", "serve", "server@a")
	want := func(node *nodes.Node, want, name string, args ...string) {
		t.Helper()
		if got := examples.run(node, name, args...); got != want {
			t.Fatalf("%s %s: %q instead of %q", name, strings.Join(args, " "), got, want)
		}
	}
	want(b, `[{"name":"nike","qty":30}]`, "product_stock", "add", "server@a", "nike", "30")
	want(b, `[{"name":"adidas","qty":35},{"name":"nike","qty":30}]`, "product_stock", "add", "server@a", "adidas", "35")
	want(a, `[{"name":"adidas","qty":35},{"name":"nike","qty":30}]`, "product_stock", "status", "server")
	want(a, `{"name":"nike","qty":30}`, "pos", "ask", "pos@b", "nike")
	want(b, "There is no Product puma", "pos", "ask", "pos", "puma")
	want(b, "You can ask me what today's date is by passing date_today", "bot", "help", "bot@a")
	if got := examples.run(b, "bot", "date", "bot@a"); !strings.HasPrefix(got, "Today's date is 2") {
		t.Fatal(got)
	}
	want(b, "null", "key_value_store", "get", "primary_store@a", "foo")
	want(b, "", "key_value_store", "set", "primary_store@a", "foo", "bar")
	want(a, "bar", "key_value_store", "get", "primary_store", "foo")
	want(b, "", "key_value_store", "delete", "primary_store@a", "foo")
	want(b, "null", "key_value_store", "get", "primary_store@a", "foo")

	// A hundred customers side by side, and none hears what another asked for.
	client := connect(t, b)
	var customers sync.WaitGroup
	for i := range 100 {
		customers.Add(1)
		go func() {
			defer customers.Done()
			product, want := "nike", any(map[string]any{"name": "nike", "qty": int64(30)})
			if i%2 == 1 {
				product = "x" + strings.Repeat("y", i)
				want = "There is no Product " + product
			}
			p := must(client.Spawn(ctx))
			ok(t, p.Send(ctx, "pos", []any{"ask", p.PID(), product}))
			heard := must(pillion.Decode[[]any](must(p.Receive(ctx)).Body))
			if !equal(heard[1], want) {
				t.Errorf("%v instead of %v", heard, want)
			}
		}()
	}
	customers.Wait()
	a.Kill()
	want(b, "The stock does not answer: noconnection", "pos", "ask", "pos", "nike")
}
