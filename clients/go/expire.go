package pillion

import "time"

// expire waits, and meanwhile ends the calls whose time is over: nobody else does while there is no connection.
func (c *Client) expire(wait time.Duration) {
	until := time.Now().Add(wait)
	for {
		now := time.Now()
		next := until
		c.mu.Lock()
		for _, w := range c.pending {
			if !w.call {
				continue
			}
			if !w.deadline.After(now) {
				if c.leftFrom != 0 && w.seq >= c.leftFrom {
					c.settle(w, Answer{}, newError("lost", "there was no connection to the node in time; the command was not written"))
				} else {
					c.settle(w, Answer{}, &Error{Code: "timeout", MaybeApplied: true,
						Message: "no reply in time; the connection to the node is broken"})
				}
			} else if w.deadline.Before(next) {
				next = w.deadline
			}
		}
		c.mu.Unlock()
		if !now.Before(until) {
			return
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			timer.Stop()
			return
		}
	}
}
