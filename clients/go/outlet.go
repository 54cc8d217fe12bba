package pillion

import (
	"encoding/binary"
	"iter"
	"net"
	"syscall"
	"time"
)

// outMax is how much may be unwritten before a command waits.
const outMax = 1 << 20

// outlet is one connection and what is to be written to it. All but conn is guarded by client.mu.
type outlet struct {
	conn   net.Conn
	raw    syscall.RawConn
	reader frameReader
	wake   chan struct{}
	broken bool

	// out is to be written; rest was begun by flush and goes before it. Who has writing set writes, and nobody else.
	out, spare, rest []byte
	writing          bool
	whole            bool
	inflight         int
	// taken is the last command of the session that was put into what was written, from the first of what was written last.
	from, taken uint64
	// unsent is what the socket refused whole: nobody has read it.
	unsent []byte

	// flush writes by this function, made once, without waiting.
	attempt  func(fd uintptr) bool
	attempts []byte
	wrote    int

	draining bool
}

func newOutlet(conn net.Conn) *outlet {
	l := &outlet{conn: conn, wake: make(chan struct{}, 1), reader: frameReader{conn: conn}}
	if unix, ok := conn.(syscall.Conn); ok {
		if raw, err := unix.SyscallConn(); err == nil {
			l.raw = raw
		}
	}
	l.attempt = func(fd uintptr) bool {
		l.wrote, _ = syscall.Write(int(fd), l.attempts)
		return true
	}
	return l
}

func (l *outlet) unwritten() int { return len(l.out) + l.inflight }

func (l *outlet) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// take gives what is to be written, and the right to write it.
func (l *outlet) take(seq uint64) []byte {
	buf := l.out
	l.out, l.spare = l.spare[:0], nil
	l.from, l.inflight, l.taken, l.writing = l.taken+1, len(buf), seq, true
	return buf
}

// give puts a buffer back whose bytes were written.
func (l *outlet) give(buf []byte) {
	l.writing, l.inflight = false, 0
	if cap(buf) <= 2*outMax {
		l.spare = buf[:0]
	}
}

// flush writes what is there without waiting: who waits for an answer has nothing better to do. What the socket does not take is
// left to the writer.
func (c *Client) flush() {
	c.mu.Lock()
	l := c.link
	if l == nil || l.writing || l.raw == nil || len(l.out) == 0 || l.broken {
		c.mu.Unlock()
		return
	}
	buf := l.take(c.seq)
	c.mu.Unlock()
	l.attempts, l.wrote = buf, 0
	err := l.raw.Write(l.attempt)
	wrote := max(l.wrote, 0)
	c.mu.Lock()
	if err == nil && wrote == len(buf) {
		l.give(buf)
		if len(l.out) > 0 {
			l.poke()
		}
	} else {
		l.rest, l.inflight = buf[wrote:], len(buf)-wrote
		l.whole = wrote == 0
		l.poke()
	}
	if l.broken {
		c.change()
	}
	c.mu.Unlock()
}

// write is the writer of one connection: it writes what has gathered, many frames at once, as the socket takes it.
func (c *Client) write(l *outlet) {
	defer c.tasks.Done()
	for range l.wake {
		c.mu.Lock()
		for {
			var buf []byte
			if l.rest != nil {
				buf, l.rest = l.rest, nil
			} else if !l.writing && len(l.out) > 0 && !l.broken {
				buf, l.whole = l.take(c.seq), true
			}
			if buf == nil {
				break
			}
			c.mu.Unlock()
			n, err := l.conn.Write(buf)
			c.mu.Lock()
			if err != nil {
				l.broken = true
				l.conn.Close()
				if n == 0 && l.whole {
					l.unsent, buf = buf, nil
				}
			}
			l.give(buf)
			// Some may wait for room.
			c.change()
		}
		ends := l.broken
		c.mu.Unlock()
		if ends {
			return
		}
	}
}

// end closes the connection; its reader and writer end then.
func (c *Client) end(l *outlet) {
	c.mu.Lock()
	l.broken = true
	c.mu.Unlock()
	l.conn.Close()
	l.poke()
}

// leftover gives, when nobody writes any more, what was not written of a broken connection, and the first command of that.
func (c *Client) leftover(l *outlet) ([]byte, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for l.writing {
		changed := c.changes()
		c.mu.Unlock()
		<-changed
		c.mu.Lock()
	}
	from := l.taken + 1
	if l.unsent != nil {
		from = l.from
	}
	return append(l.unsent, l.out...), from
}

// frames walks whole frames: each with its header.
func frames(b []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(frame, header []byte) bool) {
		for len(b) >= 6 {
			size := 4 + int(binary.BigEndian.Uint32(b))
			one := b[:size]
			b = b[size:]
			if !yield(one, one[6:6+int(binary.BigEndian.Uint16(one[4:]))]) {
				return
			}
		}
	}
}

// plainOf counts the commands of the app that have no answer.
func plainOf(b []byte) (n int64) {
	for _, header := range frames(b) {
		if _, asked := findUint(header, "id"); !asked && findText(header, "op") != "more" {
			n++
		}
	}
	return n
}

// sendAgain writes what was left over of the connection before, but for what nobody waits for any more; in a new session also but for
// what another process than the client's own said: that has another pid now. c.mu is held, and l is the new connection. It gives how
// many commands without an id are among what it dropped.
func (c *Client) sendAgain(l *outlet, renewed bool) (dropped int64) {
	left, from := c.left, c.leftFrom
	c.left, c.leftFrom = nil, 0
	if from == 0 {
		return 0
	}
	waiting := make(map[uint64]*pending)
	for id, w := range c.pending {
		if w.seq >= from {
			waiting[id] = w
		}
	}
	for one, header := range frames(left) {
		id, asked := findUint(header, "id")
		w := waiting[id]
		delete(waiting, id)
		switch more := findText(header, "op") == "more"; {
		case more:
			// It is told anew.
			continue
		case asked && (w == nil || w.abandoned):
			continue
		case renewed && find(header, "pid") != nil:
			if asked {
				c.settle(w, Answer{}, errLost(false))
			} else {
				dropped++
			}
			continue
		}
		c.seq++
		if asked {
			w.seq = c.seq
		} else if renewed {
			c.plain++
		}
		l.out = append(l.out, one...)
	}
	l.poke()
	return dropped
}

// frameReader cuts frames out of what the connection gives: many for one read, none copied. What was given is never written over.
type frameReader struct {
	conn       net.Conn
	buf        []byte
	start, end int
	frames     uint64
	names      interned
}

const slab = 64 * 1024

// next gives what follows the length of the next frame.
func (r *frameReader) next() ([]byte, error) {
	need := 4
	for {
		if have := r.end - r.start; have >= need {
			b := r.buf[r.start:r.end]
			size := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
			if size > frameMax+headerMax+6 || size < 2 {
				return nil, errMalformed
			}
			if have >= 4+size {
				r.start += 4 + size
				r.frames++
				return b[4 : 4+size : 4+size], nil
			}
			need = 4 + size
		}
		if len(r.buf)-r.start < need || r.end == len(r.buf) {
			bigger := make([]byte, max(slab, need))
			r.end = copy(bigger, r.buf[r.start:r.end])
			r.buf, r.start = bigger, 0
		}
		n, err := r.conn.Read(r.buf[r.end:])
		if n == 0 && err != nil {
			return nil, err
		}
		r.end += n
	}
}

func (l *outlet) deadline(wait time.Duration) {
	if wait == 0 {
		_ = l.conn.SetReadDeadline(time.Time{})
		return
	}
	_ = l.conn.SetReadDeadline(time.Now().Add(wait))
}
