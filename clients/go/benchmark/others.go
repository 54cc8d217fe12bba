package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/nats-io/nats.go"
)

// What the node costs: frames by hand.

func dial(variable string) *net.UnixConn {
	conn, err := net.Dial("unix", os.Getenv(variable))
	check(err)
	return conn.(*net.UnixConn)
}

func rawFrame(header map[string]any, body []byte) []byte {
	head, err := cbor.Marshal(header)
	check(err)
	frame := make([]byte, 6, 6+len(head)+len(body))
	binary.BigEndian.PutUint32(frame, uint32(2+len(head)+len(body)))
	binary.BigEndian.PutUint16(frame[4:], uint16(len(head)))
	return append(append(frame, head...), body...)
}

func bytesBody(size int) []byte {
	body, err := cbor.Marshal(make([]byte, size))
	check(err)
	return body
}

func nextFrame(r *bufio.Reader, buf []byte) []byte {
	_, err := io.ReadFull(r, buf[:4])
	check(err)
	n := binary.BigEndian.Uint32(buf)
	_, err = io.ReadFull(r, buf[:n])
	check(err)
	return buf[:n]
}

func rawSetUp(conn *net.UnixConn, r *bufio.Reader, commands ...map[string]any) {
	buf := make([]byte, 1<<16)
	for _, command := range commands {
		command["id"] = 1
		_, err := conn.Write(rawFrame(command, nil))
		check(err)
		nextFrame(r, buf)
	}
}

func callRaw(e *end, to string) func() error {
	conn := dial("PILLION_A")
	frame := rawFrame(map[string]any{"op": "call", "id": 1, "to": to}, bytesBody(e.size))
	r, buf := bufio.NewReaderSize(conn, 1<<16), make([]byte, 1<<16)
	return func() error {
		_, err := conn.Write(frame)
		nextFrame(r, buf)
		return err
	}
}

func respondRaw(_ *end, ready func(string)) {
	conn := dial("PILLION_B")
	r, buf := bufio.NewReaderSize(conn, 1<<16), make([]byte, 1<<16)
	rawSetUp(conn, r, map[string]any{"op": "register", "name": name()})
	ready(name() + "@b@bench")
	for {
		frame := nextFrame(r, buf)
		n := binary.BigEndian.Uint16(frame)
		var head struct{ Ref uint64 }
		check(cbor.Unmarshal(frame[2:2+n], &head))
		_, err := conn.Write(rawFrame(map[string]any{"op": "reply", "ref": head.Ref}, frame[2+n:]))
		check(err)
	}
}

func sendRaw(e *end, to string) {
	conn, mine := dial("PILLION_A"), done.Load()
	defer conn.Close()
	header := map[string]any{"op": "send", "to": to}
	if e.what == "publish" {
		header = map[string]any{"op": "publish", "topic": to}
	}
	frame := rawFrame(header, bytesBody(e.size))
	var many []byte
	for len(many) < 32*1024 {
		many = append(many, frame...)
	}
	for done.Load() == mine {
		_, err := conn.Write(many)
		check(err)
	}
}

func countRaw(e *end, ready func(string)) float64 {
	conn := dial("PILLION_B")
	defer conn.Close()
	r, buf := bufio.NewReaderSize(conn, 1<<16), make([]byte, 1<<16)
	rawSetUp(conn, r, map[string]any{"op": "flag", "mailbox": map[string]any{"policy": "wait"}})
	if e.what == "publish" {
		rawSetUp(conn, r, map[string]any{"op": "subscribe", "topic": name(), "sync": true})
		ready(name())
	} else {
		rawSetUp(conn, r, map[string]any{"op": "register", "name": name()})
		ready(name() + "@b@bench")
	}
	c := counting{span: e.time}
	for {
		nextFrame(r, buf)
		if c.add(1) {
			return c.perSecond()
		}
	}
}

// What the CBOR library and a socket cost.

type floorHeader struct {
	Op string `cbor:"op"`
	ID uint64 `cbor:"id,omitempty"`
	To string `cbor:"to"`
}

func floorWrite(w *bufio.Writer, header floorHeader, body []byte) {
	head, err := cbor.Marshal(header)
	check(err)
	item, err := cbor.Marshal(body)
	check(err)
	var size [6]byte
	binary.BigEndian.PutUint32(size[:], uint32(2+len(head)+len(item)))
	binary.BigEndian.PutUint16(size[4:], uint16(len(head)))
	for _, part := range [][]byte{size[:], head, item} {
		_, err := w.Write(part)
		check(err)
	}
}

func floorRead(r *bufio.Reader, buf []byte) (floorHeader, []byte, bool) {
	if _, err := io.ReadFull(r, buf[:4]); err != nil {
		return floorHeader{}, nil, false
	}
	n := binary.BigEndian.Uint32(buf)
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return floorHeader{}, nil, false
	}
	head := binary.BigEndian.Uint16(buf)
	var header floorHeader
	check(cbor.Unmarshal(buf[2:2+head], &header))
	var body []byte
	check(cbor.Unmarshal(buf[2+head:n], &body))
	return header, body, true
}

func floorConn(file *os.File) net.Conn {
	conn, err := net.FileConn(file)
	check(err)
	file.Close()
	return conn
}

func there() net.Conn { return floorConn(os.NewFile(3, "socket")) }

func callFloor(e *end, _ string) func() error {
	conn := floorConn(here)
	r, w := bufio.NewReaderSize(conn, 1<<16), bufio.NewWriterSize(conn, 1<<16)
	buf, body := make([]byte, 1<<16), make([]byte, e.size)
	return func() error {
		floorWrite(w, floorHeader{"call", 1, "bench@b@bench"}, body)
		err := w.Flush()
		floorRead(r, buf)
		return err
	}
}

func respondFloor(_ *end, ready func(string)) {
	conn := there()
	r, w := bufio.NewReaderSize(conn, 1<<16), bufio.NewWriterSize(conn, 1<<16)
	buf := make([]byte, 1<<16)
	ready("")
	for {
		header, body, ok := floorRead(r, buf)
		if !ok {
			return
		}
		floorWrite(w, header, body)
		check(w.Flush())
	}
}

func sendFloor(e *end, _ string) {
	var conn net.Conn
	if e.what == "receive" {
		conn = there()
	} else {
		conn = floorConn(here)
	}
	mine, w, body := done.Load(), bufio.NewWriterSize(conn, 1<<16), make([]byte, e.size)
	// Who counts is killed when it has counted.
	defer func() { _ = recover() }()
	for done.Load() == mine && !floorOver(w) {
		floorWrite(w, floorHeader{e.what, 0, "bench@b@bench"}, body)
	}
}

func floorOver(w *bufio.Writer) bool {
	if w.Available() > 4096 {
		return false
	}
	return w.Flush() != nil
}

func countFloor(e *end, ready func(string)) float64 {
	var conn net.Conn
	if e.what == "receive" {
		conn = floorConn(here)
	} else {
		conn = there()
	}
	defer conn.Close()
	ready("")
	r, buf, c := bufio.NewReaderSize(conn, 1<<16), make([]byte, 1<<16), counting{span: e.time}
	for {
		if _, _, ok := floorRead(r, buf); !ok || c.add(1) {
			return c.perSecond()
		}
	}
}

// The same over NATS.

func natsConn(variable string) *nats.Conn {
	conn, err := nats.Connect(os.Getenv(variable))
	check(err)
	return conn
}

func callNATS(e *end, to string) func() error {
	conn, body := natsConn("NATS_A"), make([]byte, e.size)
	return func() error {
		_, err := conn.Request(to, body, 5*time.Second)
		return err
	}
}

func respondNATS(_ *end, ready func(string)) {
	conn := natsConn("NATS_B")
	_, err := conn.Subscribe(name(), func(m *nats.Msg) { _ = m.Respond(m.Data) })
	check(err)
	check(conn.Flush())
	// The other server is to know of the subscription.
	time.Sleep(200 * time.Millisecond)
	ready(name())
	select {}
}

func sendNATS(e *end, to string) {
	conn, body, mine := natsConn("NATS_A"), make([]byte, e.size), done.Load()
	defer conn.Close()
	for done.Load() == mine {
		if conn.Publish(to, body) != nil {
			return
		}
	}
}

func countNATS(e *end, ready func(string)) float64 {
	conn := natsConn("NATS_B")
	defer conn.Close()
	sub, err := conn.SubscribeSync(name())
	check(err)
	check(sub.SetPendingLimits(-1, -1))
	check(conn.Flush())
	time.Sleep(200 * time.Millisecond)
	ready(name())
	c := counting{span: e.time}
	for {
		_, err := sub.NextMsg(10 * time.Second)
		check(err)
		if c.add(1) {
			return c.perSecond()
		}
	}
}
