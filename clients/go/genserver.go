package pillion

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// GenServer is a process with callbacks. They are called one at a time, so its fields need no lock. Embed [Callbacks] for those that are
// not needed.
//
// An error of HandleCall is raised to the caller and then ends the process, after Terminate, with the reason "CLASS: TEXT", which links
// and monitors hear; so does an error of the others, and a panic. Who wants to answer an error and live on uses [From.Raise] and returns
// [NoReply]. An error made by [Stop] ends the process with a reason of its own.
//
// The contexts end when the process is to end.
type GenServer interface {
	// Init is called before the process takes anything; again when the client has moved to another node after a drain.
	Init(ctx context.Context, self *Process) error
	// HandleCall gives the reply, or NoReply when from is answered later, from anywhere.
	HandleCall(ctx context.Context, body Body, from From) (any, error)
	// HandleCast handles a cast.
	HandleCast(ctx context.Context, body Body) error
	// HandleInfo handles everything else: messages, downs, exits, gaps.
	HandleInfo(ctx context.Context, event Event) error
	// Terminate is called once at the end: "normal", "shutdown" when the client closes or the node leaves, or the reason of an error.
	Terminate(reason string)
}

// Callbacks are those of a [GenServer] that does nothing, to embed.
type Callbacks struct{}

func (Callbacks) Init(context.Context, *Process) error    { return nil }
func (Callbacks) HandleCast(context.Context, Body) error  { return nil }
func (Callbacks) HandleInfo(context.Context, Event) error { return nil }
func (Callbacks) Terminate(string)                        {}
func (Callbacks) HandleCall(context.Context, Body, From) (any, error) {
	return nil, &Exception{Class: "undef", Reason: "it handles no calls"}
}

// NoReply is what HandleCall returns when it answers later.
var NoReply any = noReply{}

type noReply struct{}

type stop struct{ reason string }

func (s *stop) Error() string { return "pillion: stop: " + s.reason }

// Stop is the error that ends a [GenServer] with this reason. What HandleCall returns beside it is the reply.
func Stop(reason string) error { return &stop{reason} }

// From is a caller that waits for an answer. It may be kept and answered later, from any goroutine.
type From struct{ event Event }

// PID is who calls.
func (f From) PID() PID { return f.event.From }

// Reply answers: [Event.Reply].
func (f From) Reply(ctx context.Context, body any) error { return f.event.Reply(ctx, body) }

// Part answers a part, and others follow: [Event.Part].
func (f From) Part(ctx context.Context, body any) error { return f.event.Part(ctx, body) }

// Raise answers with an error: [Event.Raise].
func (f From) Raise(ctx context.Context, failure error) error { return f.event.Raise(ctx, failure) }

// serving is what a process runs that answers by itself.
type serving interface {
	// leave answers what was given, and ends; true when there is nothing left to answer.
	leave()
	// left is closed when it has.
	left() <-chan struct{}
	// shut ends it at once.
	shut(ctx context.Context)
	// revive begins anew, with another node.
	revive()
}

type server struct {
	process   *Process
	callbacks GenServer
	ctx       context.Context
	cancel    context.CancelFunc
	mu        sync.Mutex
	ended     chan struct{}
	leaving   chan struct{}
}

// Start runs a [GenServer] in a process of its own. It returns when Init has; its error is the one of Start, and nothing of the process
// is left then. ctx is for the process: Init has one of its own, and is waited for.
func (c *Client) Start(ctx context.Context, callbacks GenServer, options ...SpawnOption) (*Process, error) {
	p := newProcess(c)
	for _, option := range options {
		option(&p.spec)
	}
	s := &server{process: p, callbacks: callbacks}
	p.serves = s
	s.renew()
	if err := c.spawn(ctx, p, false); err != nil {
		return nil, err
	}
	if err := s.guard(func() error { return callbacks.Init(s.ctx, p) }); err != nil {
		s.cancel()
		close(s.ended)
		p.drop(raised(err).exitReason())
		return nil, err
	}
	c.tasks.Add(1)
	go s.loop(s.ctx, s.ended, s.leaving)
	return p, nil
}

func (s *server) renew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx, s.cancel = context.WithCancel(s.process.client.ctx)
	s.ended, s.leaving = make(chan struct{}), make(chan struct{})
}

// guard makes a panic an error.
func (s *server) guard(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = recovered(value, debug.Stack())
		}
	}()
	return f()
}

func (s *server) loop(ctx context.Context, ended, leaving chan struct{}) {
	p := s.process
	defer p.client.tasks.Done()
	defer close(ended)
	for {
		var event Event
		err := p.take(ctx, &event, nil)
		if err != nil {
			select {
			case <-leaving:
				// What it has still to answer comes first.
				if p.Reason() == "" && ctx.Err() == nil {
					return
				}
			default:
			}
			reason := "shutdown"
			if own := p.Reason(); own != "" && ctx.Err() == nil {
				reason = own
			}
			s.terminate(reason)
			return
		}
		if err := s.handle(ctx, &event); err != nil {
			reason, halt := raised(err).exitReason(), (*stop)(nil)
			if errors.As(err, &halt) {
				reason = halt.reason
			}
			s.terminate(reason)
			if p.own {
				p.client.exitOwn(reason, nil)
				return
			}
			exit, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectionWait)
			if err := p.Exit(exit, reason); err != nil {
				p.client.gone(p, reason)
			}
			cancel()
			return
		}
	}
}

func (s *server) handle(ctx context.Context, event *Event) error {
	switch event.Kind {
	case KindCall:
		var reply any
		err := s.guard(func() (err error) {
			reply, err = s.callbacks.HandleCall(ctx, event.Body, From{*event})
			return err
		})
		halt := (*stop)(nil)
		if err != nil && !errors.As(err, &halt) {
			err = placed(err, s.place())
			_ = event.Raise(ctx, err)
			return err
		}
		if _, later := reply.(noReply); !later {
			if failure := event.Reply(ctx, reply); failure != nil && errors.Is(failure, ErrBadArg) {
				_ = event.Raise(ctx, failure)
				return failure
			}
		}
		return err
	case KindCast:
		return s.guard(func() error { return s.callbacks.HandleCast(ctx, event.Body) })
	}
	return s.guard(func() error { return s.callbacks.HandleInfo(ctx, *event) })
}

// place names the callback of an error that has no stack.
func (s *server) place() string {
	return fmt.Sprintf("%T.HandleCall", s.callbacks)
}

func (s *server) terminate(reason string) {
	err := s.guard(func() error { s.callbacks.Terminate(reason); return nil })
	if err != nil {
		s.process.client.log.Error("pillion: Terminate failed", "error", err)
	}
}

func (s *server) state() (context.CancelFunc, chan struct{}, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cancel, s.ended, s.leaving
}

func (s *server) leave() {
	_, _, leaving := s.state()
	close(leaving)
	s.process.finish()
}

func (s *server) left() <-chan struct{} {
	_, ended, _ := s.state()
	return ended
}

func (s *server) shut(ctx context.Context) {
	cancel, ended, _ := s.state()
	cancel()
	select {
	case <-ended:
	case <-ctx.Done():
	case <-time.After(connectionWait):
	}
}

func (s *server) revive() {
	p := s.process
	p.mu.Lock()
	p.over = false
	p.mu.Unlock()
	s.renew()
	ctx, ended, leaving := s.ctx, s.ended, s.leaving
	if err := s.guard(func() error { return s.callbacks.Init(ctx, p) }); err != nil {
		p.client.log.Error("pillion: Init failed", "error", err)
		_ = p.Exit(ctx, raised(err).exitReason())
		close(ended)
		return
	}
	p.client.tasks.Add(1)
	go s.loop(ctx, ended, leaving)
}
