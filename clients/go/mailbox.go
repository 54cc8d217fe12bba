package pillion

import (
	"context"
	"iter"
)

// half of a window: so many are consumed before the node is told.
const (
	window = 256
	half   = window / 2
)

// push puts an event into the mailbox.
func (p *Process) push(event Event) {
	event.process = p
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	if event.Ref != 0 && (event.Kind == KindCall || event.Kind == KindRPC) {
		if p.open == nil {
			p.open = make(map[uint64]context.CancelFunc)
		}
		p.open[event.Ref] = nil
	}
	p.queue = append(p.queue, event)
	p.wakeAll()
	p.mu.Unlock()
}

// Receive takes the oldest event out of the mailbox that every match wants, or waits for one. What they do not want stays, in its
// order, for others. A match must not use the process.
//
// It ends with an error when ctx does ([ErrTimeout] or [ErrCancelled]; nothing is taken out then), when the client is closed, and
// when the process has ended ([ErrNoProc] with its Reason) and its mailbox is empty.
func (p *Process) Receive(ctx context.Context, match ...func(*Event) bool) (Event, error) {
	var event Event
	err := p.take(ctx, &event, match)
	return event, err
}

// Events takes everything out of the mailbox, one after the other, until ctx ends (then it ends without an error), or the process
// has ended: that is the last, an error.
func (p *Process) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := p.Receive(ctx)
			if err != nil {
				if ctx.Err() == nil {
					yield(Event{}, err)
				}
				return
			}
			if !yield(event, nil) {
				return
			}
		}
	}
}

func (p *Process) take(ctx context.Context, event *Event, match []func(*Event) bool) error {
	var waiting chan struct{}
	p.mu.Lock()
	for {
		if at := p.look(match); at >= 0 {
			*event = p.remove(at)
			n, gen := p.consume(event)
			p.forget(waiting)
			p.mu.Unlock()
			if n > 0 {
				p.more(n, gen)
			}
			return nil
		}
		if p.ended || p.over {
			p.forget(waiting)
			err := p.endedError()
			p.mu.Unlock()
			return err
		}
		if p.consumed > 0 && !p.later {
			// The node is told before the mailbox waits.
			n, gen := p.consumed+p.untold, p.gen
			p.consumed, p.untold = 0, 0
			p.mu.Unlock()
			p.more(n, gen)
			p.mu.Lock()
			continue
		}
		if waiting == nil {
			waiting = p.wait()
		}
		p.mu.Unlock()
		select {
		case <-waiting:
			p.mu.Lock()
		case <-ctx.Done():
			p.mu.Lock()
			p.forget(waiting)
			p.mu.Unlock()
			return contextError(ctx.Err(), "nothing was received", false)
		}
	}
}

// look gives the place of the first event that every match wants, else -1. A match that panics leaves the mailbox unlocked.
func (p *Process) look(match []func(*Event) bool) int {
	if len(match) == 0 {
		if p.at < len(p.queue) {
			return p.at
		}
		return -1
	}
	whole := false
	defer func() {
		if !whole {
			p.mu.Unlock()
		}
	}()
	found := -1
next:
	for at := p.at; at < len(p.queue); at++ {
		for _, wants := range match {
			if !wants(&p.queue[at]) {
				continue next
			}
		}
		found = at
		break
	}
	whole = true
	return found
}

// remove takes one event out, in the middle too.
func (p *Process) remove(at int) Event {
	event := p.queue[at]
	if at != p.at {
		copy(p.queue[p.at+1:at+1], p.queue[p.at:at])
	}
	p.queue[p.at] = Event{}
	p.at++
	if p.at == len(p.queue) {
		p.queue, p.at = p.queue[:0], 0
		if cap(p.queue) > 4*window {
			p.queue = nil
		}
	} else if p.at >= window && p.at > len(p.queue)/2 {
		kept := copy(p.queue, p.queue[p.at:])
		clear(p.queue[kept:])
		p.queue, p.at = p.queue[:kept], 0
	}
	return event
}

// consume counts an event that was taken out, and gives how many the node is to be told of now.
func (p *Process) consume(event *Event) (n int, gen uint32) {
	if !event.counted() || event.gen != p.gen || p.later {
		return 0, 0
	}
	p.consumed++
	if p.consumed < half {
		return 0, 0
	}
	n = p.consumed + p.untold
	p.consumed, p.untold = 0, 0
	return n, p.gen
}

// used says that the function that an event called has ended: only then it is consumed. idle says that no other runs.
func (p *Process) used(event *Event, idle bool) {
	p.mu.Lock()
	if event.gen != p.gen {
		p.mu.Unlock()
		return
	}
	p.consumed++
	n := p.consumed + p.untold
	if p.consumed < half && !idle {
		p.mu.Unlock()
		return
	}
	p.consumed, p.untold = 0, 0
	gen := p.gen
	p.mu.Unlock()
	p.more(n, gen)
}

// more tells the node that n were consumed; what cannot be told now is told later.
func (p *Process) more(n int, gen uint32) {
	if p.client.tellMore(p, n, gen) {
		if n >= half {
			// The node may be waiting for it, and the writer for a processor.
			p.client.flush()
		}
		return
	}
	p.mu.Lock()
	if p.gen == gen {
		p.untold += n
	}
	p.mu.Unlock()
}

// wait makes a place where push says that something came.
func (p *Process) wait() chan struct{} {
	waiting := p.spare
	if waiting == nil {
		waiting = make(chan struct{}, 1)
	}
	p.spare = nil
	p.waiting = append(p.waiting, waiting)
	return waiting
}

func (p *Process) forget(waiting chan struct{}) {
	if waiting == nil {
		return
	}
	for i, other := range p.waiting {
		if other == waiting {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			break
		}
	}
	select {
	case <-waiting:
	default:
	}
	p.spare = waiting
}

func (p *Process) wakeAll() {
	for _, waiting := range p.waiting {
		select {
		case waiting <- struct{}{}:
		default:
		}
	}
}

func (p *Process) endedError() error {
	if p.over {
		return errOver
	}
	if p.failure != nil {
		return p.failure
	}
	return &Error{Code: "noproc", Message: "the process has ended: " + p.reason, Reason: p.reason}
}

func (p *Process) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// actsNoMore is what a process that has ended is told that is asked to do something.
func (p *Process) actsNoMore() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure != nil {
		return p.failure
	}
	return &Error{Code: "noproc", Message: "the process that acts has ended: " + p.reason, Reason: p.reason}
}

// end is what becomes of a process that will hear nothing more. What lies in its mailbox can still be taken.
func (p *Process) end(reason string, failure error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended, p.reason, p.failure = true, reason, failure
	for _, cancel := range p.open {
		if cancel != nil {
			cancel()
		}
	}
	p.open = nil
	p.wakeAll()
	close(p.done)
}

// finish ends the iterators of a process once what is in its mailbox was taken.
func (p *Process) finish() {
	p.mu.Lock()
	p.over = true
	p.wakeAll()
	p.mu.Unlock()
}

// answered says that nobody waits for the answer to ref any more.
func (p *Process) answered(gen uint32, ref uint64) {
	p.mu.Lock()
	if gen == p.gen {
		if cancel, ok := p.open[ref]; ok {
			delete(p.open, ref)
			if cancel != nil {
				cancel()
			}
		}
	}
	draining := p.client.finishing.Load()
	p.mu.Unlock()
	if draining {
		p.client.poke()
	}
}

// unanswered is how many calls were given to the process and not answered.
func (p *Process) unanswered() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// begin makes a context for the answer to a call, which ends when nobody waits for that any more.
func (p *Process) begin(ctx context.Context, event *Event) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	if event.Ref == 0 {
		return ctx, cancel
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waits := p.open[event.Ref]; waits && event.gen == p.gen {
		p.open[event.Ref] = cancel
	} else {
		cancel()
	}
	return ctx, cancel
}
