package pillion

// tie is a link between two processes of the client: a new session sets it anew.
type tie struct{ from, to *Process }

// ties takes the links between processes of the client out of what they are linked with. c.mu is held, and the pids are still those of the
// session before.
func (c *Client) ties() []tie {
	own := c.Process
	at := func(pid PID) *Process {
		if pid == own.pid {
			return own
		}
		return c.processes[pid]
	}
	var ties []tie
	for _, p := range append([]*Process{own}, c.order...) {
		p.mu.Lock()
		for pid := range p.links {
			if to := at(pid); to != nil {
				delete(p.links, pid)
				ties = append(ties, tie{p, to})
			}
		}
		p.mu.Unlock()
	}
	// Both ends may know of it.
	seen := make(map[tie]bool)
	once := ties[:0]
	for _, t := range ties {
		if !seen[t] && !seen[tie{t.to, t.from}] {
			once = append(once, t)
		}
		seen[t] = true
	}
	return once
}

// untied gives the ties of which both ends live. Who is tied to one that has ended hears of it, and ends with it unless it traps exits.
func (c *Client) untied(ties []tie) []tie {
	for again := true; again; {
		again = false
		kept := ties[:0:0]
		for _, t := range ties {
			dead, other := t.from, t.to
			if dead.Reason() == "" {
				dead, other = other, dead
			}
			if dead.Reason() == "" {
				kept = append(kept, t)
				continue
			}
			again = true
			if other.own || other.Reason() != "" {
				continue
			}
			other.mu.Lock()
			trap := other.spec.trap
			other.mu.Unlock()
			if trap {
				other.synthetic(Event{Kind: KindExit, From: dead.PID(), Reason: dead.Reason()},
					map[string]any{"ev": KindExit, "from": dead.PID(), "reason": dead.Reason()})
			} else {
				c.gone(other, dead.Reason())
			}
		}
		ties = kept
	}
	return ties
}
