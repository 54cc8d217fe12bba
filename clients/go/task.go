package pillion

import (
	"context"
	"runtime/debug"
)

// Task is a function that runs beside the one who waits for its result, in a process of its own.
type Task[T any] struct {
	// Process is the task's own: others may send to it.
	Process *Process
	cancel  context.CancelFunc
	done    chan struct{}
	value   T
	err     error
}

// Async runs f in a process of its own that is linked with owner. What f returns, an error too, is the task's result, and the process ends
// normally. A panic of f ends the process with that as the reason, and so ends owner, or is an exit event to one that traps exits. When
// owner ends, or the process is killed, the context of f ends, and the result is [ErrExit].
func Async[T any](ctx context.Context, owner *Process, f func(ctx context.Context, self *Process) (T, error)) (*Task[T], error) {
	c := owner.client
	p, err := c.Spawn(ctx, Linked(owner))
	if err != nil {
		return nil, err
	}
	t := &Task[T]{Process: p, done: make(chan struct{})}
	run, cancel := context.WithCancel(c.ctx)
	t.cancel = cancel
	result := make(chan struct{})
	c.tasks.Add(1)
	go func() {
		defer close(result)
		defer func() {
			if value := recover(); value != nil {
				t.err = recovered(value, debug.Stack())
			}
		}()
		t.value, t.err = f(run, p)
	}()
	go func() {
		defer c.tasks.Done()
		defer cancel()
		select {
		case <-result:
		case <-p.done:
			cancel()
			<-result
			p.mu.Lock()
			if t.err = p.failure; t.err == nil {
				t.err = &Error{Code: "exit", Message: "the task's process has ended: " + p.reason, Reason: p.reason, MaybeApplied: true}
			}
			p.mu.Unlock()
			close(t.done)
			return
		}
		close(t.done)
		reason := ""
		if exception, panicked := t.err.(*Exception); panicked && exception.Stack != "" {
			reason = exception.exitReason()
		}
		if err := p.Exit(c.ctx, reason); err != nil {
			c.gone(p, reason)
		}
		owner.untie(p)
	}()
	return t, nil
}

func (p *Process) untie(from *Process) {
	pid := from.PID()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, pid)
}

// Await waits for the result. When ctx ends first the task goes on, and can be awaited again: [ErrTimeout] or [ErrCancelled].
func (t *Task[T]) Await(ctx context.Context) (T, error) {
	select {
	case <-t.done:
		return t.value, t.err
	default:
	}
	select {
	case <-t.done:
		return t.value, t.err
	case <-ctx.Done():
		var none T
		return none, contextError(ctx.Err(), "the task goes on", true)
	}
}

// Done is closed when the result is there.
func (t *Task[T]) Done() <-chan struct{} { return t.done }

// Cancel ends the context of the task's function.
func (t *Task[T]) Cancel() { t.cancel() }
