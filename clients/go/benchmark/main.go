// The measurements of clients/README.md, "Measuring", for Go. It starts itself for the other end: `benchmark ROLE AGAINST WHAT SIZE`.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

type row struct {
	Client  string   `json:"client"`
	What    string   `json:"what"`
	Size    int      `json:"size"`
	Against string   `json:"against"`
	P50     *float64 `json:"p50_us"`
	P99     *float64 `json:"p99_us"`
	PerS    *float64 `json:"per_s"`
}

// end is one of the two ends of a measurement.
type end struct {
	what string
	size int
	time time.Duration
}

// against is one way to do the same work. Each function is the measured end or the other one; what the other one says first goes to the measured one.
type against struct {
	// call makes what does one call, to the responder.
	call    func(e *end, to string) func() error
	respond func(e *end, ready func(string))
	// send writes until it is stopped by the end of the process; count counts what comes.
	send  func(e *end, to string)
	count func(e *end, ready func(string)) float64
}

var ways = map[string]against{
	"pillion": {callPillion, respondPillion, sendPillion, countPillion},
	"raw":     {callRaw, respondRaw, sendRaw, countRaw},
	"floor":   {callFloor, respondFloor, sendFloor, countFloor},
	"nats":    {callNATS, respondNATS, sendNATS, countNATS},
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func seconds() time.Duration {
	number, err := strconv.ParseFloat(os.Getenv("BENCH_SECONDS"), 64)
	if err != nil {
		number = 2
	}
	return time.Duration(number * float64(time.Second))
}

func main() {
	if len(os.Args) == 5 {
		size, err := strconv.Atoi(os.Args[4])
		check(err)
		other(os.Args[1], os.Args[2], &end{os.Args[3], size, seconds()})
		return
	}
	names := []string{"pillion", "raw", "floor", "nats"}
	if os.Getenv("NATS_A") == "" {
		fmt.Fprintln(os.Stderr, "bench: there is no NATS_A: nats is left out")
		names = names[:3]
	}
	only := os.Getenv("BENCH_ONLY")
	for _, what := range []string{"call", "send", "receive", "publish"} {
		for _, size := range []int{64, 1024} {
			for _, name := range names {
				if only != "" && !strings.Contains(name+" "+what, only) {
					continue
				}
				line := row{Client: "go", What: what, Size: size, Against: name}
				measure(&line, &end{what, size, seconds()})
				check(json.NewEncoder(os.Stdout).Encode(line))
			}
		}
	}
}

// other is the end that is not measured.
func other(role, name string, e *end) {
	ready := func(where string) { fmt.Println(where) }
	switch role {
	case "respond":
		ways[name].respond(e, ready)
	case "count":
		fmt.Println(ways[name].count(e, ready))
	case "send":
		where, err := bufio.NewReader(os.Stdin).ReadString('\n')
		check(err)
		ways[name].send(e, strings.TrimSpace(where))
	}
}

// start starts the other end; where is what it says first.
func start(role, name string, e *end, await bool) (*exec.Cmd, *bufio.Reader, func(string), string) {
	program, err := os.Executable()
	check(err)
	command := exec.Command(program, role, name, e.what, strconv.Itoa(e.size))
	command.Stderr = os.Stderr
	if name == "floor" {
		command.ExtraFiles = []*os.File{pair()}
	}
	out, err := command.StdoutPipe()
	check(err)
	in, err := command.StdinPipe()
	check(err)
	check(command.Start())
	for _, file := range command.ExtraFiles {
		file.Close()
	}
	lines, where := bufio.NewReader(out), ""
	if await {
		where, err = lines.ReadString('\n')
		check(err)
	}
	return command, lines, func(line string) { fmt.Fprintln(in, line) }, strings.TrimSpace(where)
}

func measure(line *row, e *end) {
	way := ways[line.Against]
	number := func(value float64) *float64 { return &value }
	switch e.what {
	case "call":
		command, _, _, where := start("respond", line.Against, e, true)
		p50, p99, perS := calls(way.call(e, where), e.time)
		line.P50, line.P99, line.PerS = number(p50), number(p99), number(perS)
		stop(command)
	case "receive":
		command, _, tell, _ := start("send", line.Against, e, false)
		if line.Against == "pillion" {
			stop(command)
			command, _, tell, _ = start("send", "raw", e, false)
		}
		line.PerS = number(way.count(e, tell))
		stop(command)
	default:
		counter := line.Against
		if counter == "pillion" && e.what == "send" {
			counter = "raw"
		}
		command, lines, _, where := start("count", counter, e, true)
		go way.send(e, where)
		text, err := lines.ReadString('\n')
		check(err)
		value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		check(err)
		line.PerS = number(value)
		stop(command)
		done.Add(1)
	}
}

func stop(command *exec.Cmd) {
	_ = command.Process.Kill()
	_ = command.Wait()
}

func calls(call func() error, span time.Duration) (p50, p99, perS float64) {
	for until := time.Now().Add(span / 10); time.Now().Before(until); {
		check(call())
	}
	took := make([]time.Duration, 0, 1<<18)
	began := time.Now()
	for time.Since(began) < span {
		from := time.Now()
		check(call())
		took = append(took, time.Since(from))
	}
	all := time.Since(began)
	slices.Sort(took)
	at := func(part float64) float64 { return float64(took[int(float64(len(took)-1)*part)].Nanoseconds()) / 1000 }
	return at(0.5), at(0.99), float64(len(took)) / all.Seconds()
}

// counting counts arrivals from the end of the warm-up on, and says when it is enough.
type counting struct {
	span         time.Duration
	first, began time.Time
	seen, n      int64
}

func (c *counting) add(n int64) bool {
	c.seen += n
	if c.seen&255 >= n && n < 256 {
		c.n += n
		return false
	}
	now := time.Now()
	if c.first.IsZero() {
		c.first = now
	}
	if c.began.IsZero() {
		if now.Sub(c.first) >= c.span/10 {
			c.began, c.n = now, 0
		}
		return false
	}
	c.n += n
	return now.Sub(c.began) >= c.span
}

func (c *counting) perSecond() float64 { return float64(c.n) / time.Since(c.began).Seconds() }
