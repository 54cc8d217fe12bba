package pillion

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden gives the frames of a file of tests/wire/golden by their titles.
func golden(t *testing.T, name string) map[string][]byte {
	t.Helper()
	file, err := os.Open(filepath.Join("..", "..", "tests", "wire", "golden", name))
	if err != nil {
		t.Skip("skipped: the golden files are not here; this is not the whole repository")
	}
	defer file.Close()
	frames, title := make(map[string][]byte), ""
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), "# "); ok {
			title = rest
		} else if rest, ok := strings.CutPrefix(lines.Text(), "frame "); ok {
			frame, err := hex.DecodeString(strings.TrimSpace(rest))
			if err != nil {
				t.Fatal(err)
			}
			frames[title] = frame
		}
	}
	return frames
}

func TestCommandsAreWrittenAsTheGoldenFramesAre(t *testing.T) {
	frames := golden(t, "commands.txt")
	body, _ := encode(map[string]any{"take": 3, "of": "apples"})
	pid := "<stock@hal.019b3f0c2a4e5f3c.100>"
	delivery, _ := encode(map[string]any{"window": 256})
	for title, got := range map[string][]byte{
		"self": appendFrame(nil, &command{op: "self"}, 2, ""),
		"hello, with a window and a grace": appendFrame(nil, &command{op: "hello", fields: []field{number("version", 1),
			raw("delivery", delivery.data), number("grace_ms", 30000)}}, 1, ""),
		"register": appendFrame(nil, &command{op: "register", fields: []field{text("name", "stock")}}, 17, pid),
		"send, of something that is no CBOR": appendFrame(nil, &command{op: "send", fields: []field{text("to", "stock")},
			body: encoded{data: []byte("hello"), ct: "text/plain"}}, 0, ""),
	} {
		if !bytes.Equal(got, frames[title]) {
			t.Errorf("%s: %x instead of %x", title, got, frames[title])
		}
	}
	if got := appendFrame(nil, &command{op: "send", fields: []field{text("to", "stock")}, body: body}, 0, ""); len(got) != len(frames["send"]) {
		t.Errorf("%x instead of %x", got, frames["send"])
	}
}

func TestEveryGoldenEventIsRead(t *testing.T) {
	for title, bytes := range golden(t, "events.txt") {
		var f frame
		if !f.parse(bytes[4:], new(interned)) {
			t.Errorf("%s is not read", title)
		}
		for cut := 4; cut < len(bytes); cut++ {
			// Half a frame is refused or is read as what it is; it is no panic.
			f.parse(bytes[4:cut], new(interned))
		}
	}
	var f frame
	down := golden(t, "events.txt")["gap"]
	if !f.parse(down[4:], new(interned)) || string(f.ev) != "gap" || f.lost != 2 || f.reason != "overflow" {
		t.Fatalf("%+v", f)
	}
}

func TestNothingThatANodeCouldWriteIsAPanic(t *testing.T) {
	seed := uint64(1)
	frames := golden(t, "events.txt")
	for _, frame := range frames {
		for range 50 {
			broken := bytes.Clone(frame[4:])
			for range 3 {
				seed = seed*6364136223846793005 + 1442695040888963407
				broken[(seed>>33)%uint64(len(broken))] = byte(seed >> 56)
			}
			var f1 = new(frameT)
			f1.parse(broken, new(interned))
			find(broken, "node")
			event := Event{header: f1.header, Body: Body{Data: f1.body}}
			event.Members()
			event.Presence()
			event.Body.Value()
		}
	}
	deep := bytes.Repeat([]byte{0x81}, 10000)
	if _, whole := skip(deep, 0); whole {
		t.Fatal("it is read")
	}
	long := binary.BigEndian.AppendUint64([]byte{0xbb}, 1<<63)
	if _, whole := skip(long, 0); whole {
		t.Fatal("it is read")
	}
}

type frameT = frame

func TestBodiesAreDecodedIntoWhatTheAppWants(t *testing.T) {
	item, err := encode(map[int]any{1: []byte{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := (Body{Data: item.data}).Value().(map[any]any); !ok {
		t.Fatal("a map whose keys are no texts")
	}
	if err := (Body{Data: []byte{0x63, 'a', 'b', 'c'}}).Decode(new(int)); err == nil || !strings.Contains(err.Error(), "int") {
		t.Fatal(err)
	}
	nested, err := encode([]any{Body{Data: []byte{5}}, 6})
	if err != nil || !bytes.Equal(nested.data, []byte{0x82, 5, 6}) {
		t.Fatal(nested, err)
	}
	parts, err := Decode[[]Body](Body{Data: nested.data})
	if err != nil || len(parts) != 2 || parts[1].Value() != int64(6) {
		t.Fatal(parts, err)
	}
}
