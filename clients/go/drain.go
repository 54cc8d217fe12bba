package pillion

import (
	"context"
	"errors"
)

// leave hears that the node is about to.
func (c *Client) leave(l *outlet) {
	if c.told == l {
		return
	}
	c.told = l
	if f := c.options.draining; f != nil {
		c.note(func() { f(c) })
		return
	}
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		_ = c.drain(c.ctx)
	}()
}

// Drain finishes with the node: [GenServer]s and served functions take nothing more, what they were given is answered, iterators end, and when
// nothing waits for an answer any more the client says goodbye. Then it looks for a node that does not leave, every second, and declares
// everything again there; commands wait meanwhile. It is what happens by itself when the node leaves and there is no [OnDraining].
//
// When ctx ends first it goes on by itself.
func (c *Client) Drain(ctx context.Context) error {
	done := make(chan error, 1)
	c.tasks.Add(1)
	go func() {
		defer c.tasks.Done()
		done <- c.drain(c.ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return contextError(ctx.Err(), "draining goes on", true)
	}
}

// Drained is closed when the client has finished with a node that leaves. One that has found another node since has a new channel.
func (c *Client) Drained() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.goneAway
}

func (c *Client) drain(ctx context.Context) error {
	c.mu.Lock()
	if c.finishing.Swap(true) {
		gone := c.goneAway
		c.mu.Unlock()
		select {
		case <-gone:
			return nil
		case <-ctx.Done():
			return errClosed()
		}
	}
	order, link, gone := append([]*Process(nil), c.order...), c.link, c.goneAway
	program := c.program.Load() != nil
	if program {
		order = append(order, c.Process)
	}
	c.mu.Unlock()
	pull, _ := encode("pull")
	var flags []*again
	for _, p := range order {
		if p.serves != nil {
			flags = append(flags, &again{process: p, cmd: command{op: "flag", process: p, only: link,
				fields: []field{raw("delivery", pull.data)}}})
		}
	}
	c.declareThese(flags)
	for _, p := range order {
		if p.serves != nil {
			p.serves.leave()
		} else if p.ends {
			p.finish()
		}
	}
	for _, d := range flags {
		p := d.process
		select {
		case <-p.serves.left():
		case <-ctx.Done():
			return errClosed()
		}
		if s, ok := p.serves.(*server); ok && p.Reason() == "" {
			c.waitAnswered(ctx, link, false, p)
			s.terminate("shutdown")
			if p.own {
				continue
			}
			_, _ = c.ask(ctx, &command{op: "exit", process: p, only: link, fields: []field{text("reason", "shutdown")}})
		}
	}
	c.waitAnswered(ctx, link, true, append(order, c.Process)...)
	if ctx.Err() != nil {
		return errClosed()
	}
	if program {
		// It is the whole program that goes, and looks for no other node.
		c.exitOwn("shutdown", link)
		return nil
	}
	_, err := c.ask(ctx, &command{op: "bye", only: link})
	c.mu.Lock()
	if c.link == link && !link.broken {
		link.broken = true
		link.conn.Close()
		link.poke()
	}
	c.mu.Unlock()
	select {
	case <-gone:
	case <-ctx.Done():
		return errClosed()
	}
	if errors.Is(err, ErrLost) || errors.Is(err, ErrClosed) {
		err = nil
	}
	return err
}

// waitAnswered waits until nothing that was given to the processes is unanswered, and with commands until none waits for its answer; or until
// the connection is gone.
func (c *Client) waitAnswered(ctx context.Context, link *outlet, commands bool, processes ...*Process) {
	for {
		c.mu.Lock()
		changed := c.changes()
		open := 0
		if commands {
			open = len(c.pending)
		}
		here := c.link == link && !link.broken && c.state == up
		c.mu.Unlock()
		for _, p := range processes {
			open += p.unanswered()
		}
		if open == 0 || !here {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// isDrained is what the end of the connection means to a client that has finished.
func (c *Client) isDrained() {
	c.mu.Lock()
	c.session, c.leaving = 0, c.found
	c.state = drained
	order := append([]*Process(nil), c.order...)
	gone := c.goneAway
	c.goneAway = make(chan struct{})
	for _, p := range order {
		if p.ends {
			c.declared = withoutProcess(c.declared, p)
		}
	}
	c.mu.Unlock()
	for _, p := range order {
		if p.ends {
			c.gone(p, "normal")
		}
	}
	close(gone)
	if f := c.options.drained; f != nil {
		c.note(f)
	}
}

func withoutProcess(all []*declaration, p *Process) []*declaration {
	kept := all[:0]
	for _, d := range all {
		if d.process != p {
			kept = append(kept, d)
		}
	}
	return kept
}
