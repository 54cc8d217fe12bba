package pillion

import (
	"encoding/binary"
	"errors"
)

// A frame is u32 length | u16 length of the header | header, a CBOR map | body.

const (
	frameMax  = 64 << 20
	headerMax = 1<<16 - 1
)

// field is one member of a command's header.
type field struct {
	key  string
	kind byte
	text string
	n    uint64
	raw  []byte
}

const (
	kindText = iota
	kindUint
	kindBool
	kindRaw
)

func text(key, value string) field      { return field{key: key, kind: kindText, text: value} }
func number(key string, n uint64) field { return field{key: key, kind: kindUint, n: n} }
func raw(key string, item []byte) field { return field{key: key, kind: kindRaw, raw: item} }
func yes(key string) field              { return field{key: key, kind: kindBool, n: 1} }

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return append(b, major|25, byte(n>>8), byte(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendText(b []byte, s string) []byte {
	if len(s) < 24 {
		b = append(b, 0x60|byte(len(s)))
	} else {
		b = appendHead(b, 0x60, uint64(len(s)))
	}
	return append(b, s...)
}

func appendField(b []byte, f *field) []byte {
	b = appendText(b, f.key)
	switch f.kind {
	case kindText:
		return appendText(b, f.text)
	case kindUint:
		return appendHead(b, 0, f.n)
	case kindBool:
		return append(b, 0xf4|byte(f.n))
	}
	return append(b, f.raw...)
}

// command is what is written: a header, and a body that is CBOR already.
type command struct {
	op     string
	fields []field
	// process acts; nil is the client's own.
	process *Process
	body    encoded
	// gen is the session that the command belongs to, 0 for any.
	gen uint32
	// internal commands do not wait for the session to be declared.
	internal bool
	// only is the connection that the command is for, nil for any.
	only *outlet
	// flush writes it at once, as far as the socket takes it.
	flush bool
	// See pending.
	made *Process
	by   *Process
	what PID
}

// headerSize is more than what the header takes, by not much: what is longer than a header can be is not written.
func (cmd *command) headerSize() int {
	const heads = 9 + 9
	size := 512 + len(cmd.op) + len(cmd.body.ct)
	for i := range cmd.fields {
		f := &cmd.fields[i]
		size += heads + len(f.key) + len(f.text) + len(f.raw)
	}
	return size
}

// appendFrame writes a command; id 0 is none, pid empty the session's own process.
func appendFrame(b []byte, cmd *command, id uint64, pid string) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0)
	members := 1 + len(cmd.fields)
	if id != 0 {
		members++
	}
	if pid != "" {
		members++
	}
	if cmd.body.ct != "" {
		members++
	}
	b = appendHead(b, 0xa0, uint64(members))
	b = append(b, 0x62, 'o', 'p')
	b = appendText(b, cmd.op)
	if id != 0 {
		b = append(b, 0x62, 'i', 'd')
		b = appendHead(b, 0, id)
	}
	for i := range cmd.fields {
		b = appendField(b, &cmd.fields[i])
	}
	if pid != "" {
		b = append(b, 0x63, 'p', 'i', 'd')
		b = appendText(b, pid)
	}
	if cmd.body.ct != "" {
		b = append(b, 0x62, 'c', 't')
		b = appendText(b, cmd.body.ct)
	}
	binary.BigEndian.PutUint16(b[start+4:], uint16(len(b)-start-6))
	b = append(b, cmd.body.data...)
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

var errMalformed = errors.New("pillion: the node wrote a frame that cannot be read")

// frame is one that was read; its slices are parts of the bytes read.
type frame struct {
	ev          []byte
	id          uint64
	pid, from   string
	topic       string
	ct          string
	reason      string
	ref         uint64
	lost        uint64
	retained    bool
	redelivered bool
	header      []byte
	body        []byte
}

// head reads the head of a CBOR item: major type (in the top bits), argument, what follows.
func head(b []byte) (byte, uint64, []byte, bool) {
	if len(b) == 0 {
		return 0, 0, nil, false
	}
	major, low := b[0]&0xe0, b[0]&0x1f
	b = b[1:]
	switch {
	case low < 24:
		return major, uint64(low), b, true
	case low == 24 && len(b) >= 1:
		return major, uint64(b[0]), b[1:], true
	case low == 25 && len(b) >= 2:
		return major, uint64(binary.BigEndian.Uint16(b)), b[2:], true
	case low == 26 && len(b) >= 4:
		return major, uint64(binary.BigEndian.Uint32(b)), b[4:], true
	case low == 27 && len(b) >= 8:
		return major, binary.BigEndian.Uint64(b), b[8:], true
	}
	return 0, 0, nil, false
}

// textOf reads a text; ok is false when it is another kind.
func textOf(b []byte) (value, rest []byte, ok bool) {
	major, n, rest, ok := head(b)
	if !ok || major != 0x60 || n > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n], rest[n:], true
}

// skip passes over one item.
func skip(b []byte, depth int) ([]byte, bool) {
	major, n, rest, ok := head(b)
	if !ok || depth > 64 {
		return nil, false
	}
	switch major {
	case 0x00, 0x20, 0xe0:
		return rest, true
	case 0x40, 0x60:
		if n > uint64(len(rest)) {
			return nil, false
		}
		return rest[n:], true
	case 0xa0:
		if n > uint64(len(rest)) {
			return nil, false
		}
		n *= 2
	case 0xc0:
		n = 1
	}
	if n > uint64(len(rest)) {
		return nil, false
	}
	for ; n > 0; n-- {
		if rest, ok = skip(rest, depth+1); !ok {
			return nil, false
		}
	}
	return rest, true
}

// find gives the bytes of one member of a header, nil when it is not there.
func find(header []byte, key string) []byte {
	major, n, b, ok := head(header)
	if !ok || major != 0xa0 {
		return nil
	}
	for ; n > 0; n-- {
		name, rest, ok := textOf(b)
		if !ok {
			return nil
		}
		after, ok := skip(rest, 0)
		if !ok {
			return nil
		}
		if string(name) == key {
			return rest[:len(rest)-len(after)]
		}
		b = after
	}
	return nil
}

func findText(header []byte, key string) string {
	value, _, ok := textOf(find(header, key))
	if !ok {
		return ""
	}
	return string(value)
}

func findUint(header []byte, key string) (uint64, bool) {
	major, n, _, ok := head(find(header, key))
	return n, ok && major == 0
}

func findTrue(header []byte, key string) bool {
	item := find(header, key)
	return len(item) == 1 && item[0] == 0xf5
}

// parse reads what follows the length of a frame. The texts that come again and again are taken from names.
func (f *frame) parse(rest []byte, names *interned) bool {
	if len(rest) < 2 {
		return false
	}
	size := int(binary.BigEndian.Uint16(rest))
	if len(rest) < 2+size {
		return false
	}
	*f = frame{header: rest[2 : 2+size : 2+size], body: rest[2+size : len(rest) : len(rest)]}
	major, n, b, ok := head(f.header)
	if !ok || major != 0xa0 {
		return false
	}
	for ; n > 0; n-- {
		key, rest, ok := textOf(b)
		if !ok {
			return false
		}
		after, ok := skip(rest, 0)
		if !ok {
			return false
		}
		switch string(key) {
		case "ev":
			f.ev, _, _ = textOf(rest)
		case "id":
			if major, id, _, ok := head(rest); ok && major == 0 {
				f.id = id
			}
		case "pid":
			f.pid = names.text(rest)
		case "from":
			f.from = names.text(rest)
		case "topic":
			f.topic = names.text(rest)
		case "ct":
			f.ct = names.text(rest)
		case "reason":
			f.reason = names.text(rest)
		case "ref":
			if major, ref, _, ok := head(rest); ok && major == 0 {
				f.ref = ref
			}
		case "lost":
			if major, lost, _, ok := head(rest); ok && major == 0 {
				f.lost = lost
			}
		case "retained":
			f.retained = rest[0] == 0xf5
		case "redelivered":
			f.redelivered = rest[0] == 0xf5
		}
		b = after
	}
	return len(f.ev) > 0
}

// interned keeps texts that were read, so that the pid of a busy sender is one string.
type interned struct{ texts map[string]string }

func (i *interned) text(item []byte) string {
	value, _, ok := textOf(item)
	if !ok {
		return ""
	}
	if known, ok := i.texts[string(value)]; ok {
		return known
	}
	if len(i.texts) >= 1024 || i.texts == nil {
		i.texts = make(map[string]string)
	}
	text := string(value)
	if len(text) <= 512 {
		i.texts[text] = text
	}
	return text
}
