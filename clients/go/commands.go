package pillion

import (
	"context"
	"slices"
	"sync"
	"time"
)

// connectionWait is how long a command waits for a connection; calls wait until their deadline.
const connectionWait = 10 * time.Second

// pending is a command that waits for its answer. Guarded by client.mu until signal is given after finished.
type pending struct {
	id, seq uint64
	// plain is how many commands without an id had been written before.
	plain     uint64
	call      bool
	deadline  time.Time
	signal    chan struct{}
	finished  bool
	answer    Answer
	err       error
	parts     []Body
	unread    int
	streams   bool
	internal  bool
	abandoned bool
	// made is the process that the answer gives a pid, by who monitors what the monitor that it gives a ref: both are known before
	// the next event is read.
	made *Process
	by   *Process
	what PID
}

var pendings = sync.Pool{New: func() any { return &pending{signal: make(chan struct{}, 1)} }}

// Answer is what the node answers.
type Answer struct {
	// Body is the answer's body; of a command that gives a list or a map, that.
	Body   Body
	header []byte
}

// Member decodes a member of the answer, such as "pid"; false when it is not there or is something else.
func (a Answer) Member(name string, out any) bool {
	return member(a.header, a.Body, name, out)
}

// Members are all members of the answer but its body.
func (a Answer) Members() map[string]any {
	var members map[string]any
	_ = Body{Data: a.header}.Decode(&members)
	delete(members, "ev")
	delete(members, "id")
	return members
}

// submit appends a command to what is written. With w it has an id, and w gets the answer.
func (c *Client) submit(ctx context.Context, cmd *command, w *pending, deadline time.Time) error {
	p := cmd.process
	if p != nil && !p.own && p.hasEnded() {
		return p.actsNoMore()
	}
	size := len(cmd.body.data)
	if size > frameMax {
		return newError("too_large", "a body of %d bytes; nothing longer than 64 MiB is written", size)
	}
	if cmd.headerSize() > headerMax {
		return newError("too_large", "the members of a %s take more than 64 KiB; what is long belongs into the body", cmd.op)
	}
	c.mu.Lock()
	if cmd.only != nil && (c.link != cmd.only || !c.takes(cmd)) {
		c.mu.Unlock()
		return errLost(false)
	}
	if !c.takes(cmd) || (len(c.line) > 0 && !cmd.internal) {
		if err := c.waitFor(ctx, cmd, w, deadline); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	if cmd.gen != 0 && cmd.gen != c.gen {
		c.mu.Unlock()
		return errLost(false)
	}
	c.append(cmd, w)
	c.mu.Unlock()
	return nil
}

// append is submit with the lock held, when the command can be taken.
func (c *Client) append(cmd *command, w *pending) {
	l, pid := c.link, ""
	if cmd.process != nil && !cmd.process.own {
		pid = cmd.process.pid
	}
	c.seq++
	id := uint64(0)
	if w != nil {
		c.lastID++
		id = c.lastID
		w.id, w.seq, w.plain = id, c.seq, c.plain
		c.pending[id] = w
	} else {
		c.plain++
	}
	if cmd.op == "bye" {
		c.state = drained
	}
	first := len(l.out) == 0
	l.out = appendFrame(l.out, cmd, id, pid)
	if first && !l.writing && !cmd.flush {
		l.poke()
	}
}

// takes says whether a command can be written now. It goes behind those that wait already.
func (c *Client) takes(cmd *command) bool {
	if cmd.internal {
		return (c.state == up || c.state == declaring) && !c.link.broken
	}
	return c.state == up && c.link.unwritten() <= outMax && !c.link.broken
}

// waitFor waits, with the lock held at both ends, until the command can be taken: one after the other, in the order in which they came.
func (c *Client) waitFor(ctx context.Context, cmd *command, w *pending, deadline time.Time) error {
	if cmd.internal {
		return errLost(false)
	}
	turn := make(chan struct{}, 1)
	c.line = append(c.line, turn)
	defer func() {
		at := slices.Index(c.line, turn)
		c.line = slices.Delete(c.line, at, at+1)
		if at == 0 {
			c.nextInLine()
		}
	}()
	var over <-chan time.Time
	for c.line[0] != turn || !c.takes(cmd) {
		if c.state == closed {
			return errClosed()
		}
		if over == nil && c.state != up {
			limit := connectionWait
			if w != nil && w.call {
				limit = callTimeout
				if !deadline.IsZero() {
					limit = max(time.Until(deadline), 0)
				}
			}
			clock := time.NewTimer(limit)
			defer clock.Stop()
			over = clock.C
		}
		c.mu.Unlock()
		late := false
		select {
		case <-turn:
		case <-ctx.Done():
		case <-over:
			late, over = true, nil
		}
		c.mu.Lock()
		if err := ctx.Err(); err != nil {
			failure := contextError(err, cmd.op+" was not written", false)
			if c.state != up && failure.Code == "timeout" {
				failure.Code, failure.Message = "lost", "there was no connection to the node in time; the command was not written"
			}
			return failure
		}
		if late && c.state != up && c.state != closed {
			return newError("lost", "there was no connection to the node in time; the command was not written")
		}
	}
	return nil
}

// nextInLine wakes the first of those that wait.
func (c *Client) nextInLine() {
	if len(c.line) > 0 {
		select {
		case c.line[0] <- struct{}{}:
		default:
		}
	}
}

// changes is closed at the next change.
func (c *Client) changes() chan struct{} {
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.changed
}

// change wakes who waits for a connection, for room, or for the end of the work.
func (c *Client) change() {
	c.nextInLine()
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

func (c *Client) poke() {
	c.mu.Lock()
	c.change()
	c.mu.Unlock()
}

// tell writes a command that has no answer.
func (c *Client) tell(ctx context.Context, cmd *command) error {
	return c.submit(ctx, cmd, nil, time.Time{})
}

// tellMore says that n events of this session were consumed; false when it cannot be said now.
func (c *Client) tellMore(p *Process, n int, gen uint32) bool {
	cmd := command{op: "more", process: p, fields: []field{number("n", uint64(n))}}
	c.mu.Lock()
	defer c.mu.Unlock()
	if gen != c.gen {
		return true
	}
	if (c.state != up && c.state != declaring) || c.link.broken {
		return false
	}
	c.append(&cmd, nil)
	c.plain--
	if len(c.mores) == moresMax {
		c.mores = append(c.mores[:0], c.mores[moresMax/2:]...)
	}
	c.mores = append(c.mores, c.seq)
	return true
}

// moresMax is of how many `more` it is known when they were written: beyond what can lie in a socket unread.
const moresMax = 32 * 1024

// ask writes a command and waits for its answer.
func (c *Client) ask(ctx context.Context, cmd *command) (Answer, error) {
	return c.await(ctx, cmd, time.Time{}, nil)
}

// start writes a command and gives what waits for its answer.
func (c *Client) start(ctx context.Context, cmd *command, deadline time.Time, streams bool) (*pending, error) {
	w := pendings.Get().(*pending)
	signal := w.signal
	*w = pending{signal: signal, streams: streams, internal: cmd.internal, made: cmd.made, by: cmd.by, what: cmd.what}
	if cmd.op == "call" || cmd.op == "rpc" {
		if w.call, w.deadline = true, deadline; deadline.IsZero() {
			w.deadline = time.Now().Add(callTimeout)
		}
	}
	if err := c.submit(ctx, cmd, w, deadline); err != nil {
		pendings.Put(w)
		return nil, err
	}
	if cmd.flush {
		c.flush()
	}
	return w, nil
}

func (c *Client) await(ctx context.Context, cmd *command, deadline time.Time, parts func(Body) bool) (Answer, error) {
	w, err := c.start(ctx, cmd, deadline, parts != nil)
	if err != nil {
		return Answer{}, err
	}
	return c.finish(ctx, cmd.op, w, parts)
}

// finish waits for an answer.
func (c *Client) finish(ctx context.Context, op string, w *pending, parts func(Body) bool) (Answer, error) {
	for {
		select {
		case <-w.signal:
			if parts == nil {
				answer, err := w.answer, w.err
				pendings.Put(w)
				return answer, err
			}
			c.mu.Lock()
			given, finished := w.parts, w.finished
			w.parts, w.unread = nil, 0
			c.mu.Unlock()
			for _, part := range given {
				if !parts(part) {
					c.abandon(w)
					return Answer{}, nil
				}
			}
			if finished {
				return w.answer, w.err
			}
		case <-ctx.Done():
			if w.call && ctx.Err() == context.DeadlineExceeded && parts == nil {
				// The node has the same deadline, and knows more about the call.
				timer := time.NewTimer(nodeKnows)
				select {
				case <-w.signal:
					timer.Stop()
					answer, err := w.answer, w.err
					pendings.Put(w)
					return answer, err
				case <-timer.C:
				}
			}
			if c.abandon(w) {
				return w.answer, w.err
			}
			return Answer{}, contextError(ctx.Err(), "nobody waits for the answer to "+op+" any more", true)
		}
	}
}

// nodeKnows is how long the node's own word about a deadline is waited for.
const nodeKnows = 100 * time.Millisecond

// abandon says that nobody waits any more; true when the answer is there all the same.
func (c *Client) abandon(w *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.abandoned, w.parts = true, nil
	return w.finished
}

// settle gives a command its answer; c.mu is held.
func (c *Client) settle(w *pending, answer Answer, err error) {
	delete(c.pending, w.id)
	if w.made != nil && err == nil && (w.abandoned || w.made.hasEnded()) {
		// A process that nobody waits for any more, or that was ended while it was made again.
		c.append(&command{op: "exit", fields: []field{text("pid", findText(answer.header, "pid"))}}, nil)
		c.plain--
		w.made = nil
	}
	if w.abandoned {
		w.finished = true
	} else {
		if err == nil && w.made != nil {
			w.made.pid = findText(answer.header, "pid")
			c.processes[w.made.pid] = w.made
			if !slices.Contains(c.order, w.made) {
				c.order = append(c.order, w.made)
			}
		}
		if err == nil && w.by != nil {
			if ref, ok := findUint(answer.header, "ref"); ok {
				w.by.mu.Lock()
				w.by.monitors[ref] = w.what
				w.by.mu.Unlock()
			}
		}
		w.answer, w.err, w.finished = answer, err, true
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
	if len(c.pending) == 0 && c.finishing.Load() {
		c.change()
	}
}

// Request writes any command of docs/protocol.md by its name, with these members, and gives the answer: for what has no method here.
func (p *Process) Request(ctx context.Context, op string, members map[string]any, body any) (Answer, error) {
	cmd := command{op: op, process: p}
	for name, value := range members {
		item, err := encode(value)
		if err != nil {
			return Answer{}, err
		}
		cmd.fields = append(cmd.fields, raw(name, append([]byte(nil), item.data...)))
		item.free()
	}
	if body != nil {
		item, err := encode(body)
		if err != nil {
			return Answer{}, err
		}
		defer item.free()
		cmd.body = item
	}
	return p.client.await(ctx, &cmd, time.Time{}, nil)
}
