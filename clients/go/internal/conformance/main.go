// The driver of the conformance kit: it does with the client what it is told on standard input, and says on standard output what its app
// sees. tests/conformance/README.md has the table.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	pillion "github.com/pillion/pillion/clients/go"
)

type object = map[string]any

// action is one line of standard input.
type action struct {
	Do, As                                                          string
	Name, Label, Process, Scope, To, CT, Node, Module, Function, Op string
	Topic, Group, Key, Reason, Class, Call, Ref, Subscription       string
	Draining                                                        string
	GraceMs                                                         *int64 `json:"grace_ms"`
	ConnectTimeoutMs                                                *int64 `json:"connect_timeout_ms"`
	TimeoutMs                                                       *int64 `json:"timeout_ms"`
	TrapExit                                                        bool   `json:"trap_exit"`
	Link, Monitor, Confirm, More, Sync, Retain, Report              bool
	Body, Value, Metadata                                           json.RawMessage
	Args                                                            []json.RawMessage
	Fields, Match                                                   map[string]json.RawMessage
}

type driver struct {
	out     sync.Mutex
	mu      sync.Mutex
	client  *pillion.Client
	process map[string]*later[*pillion.Process]
	subs    map[string]*later[*pillion.Subscription]
	calls   map[string]*later[pillion.Event]
	refs    map[string]*later[uint64]
	served  map[string]*pillion.Served
	holds   map[string]chan any
}

// later is something that an action has begun to make.
type later[T any] struct {
	done  chan struct{}
	value T
}

func newLater[T any]() *later[T] { return &later[T]{done: make(chan struct{})} }

func (l *later[T]) set(value T) { l.value = value; close(l.done) }

func (l *later[T]) get() T { <-l.done; return l.value }

func at[T any](d *driver, all map[string]*later[T], label string) *later[T] {
	d.mu.Lock()
	defer d.mu.Unlock()
	if all[label] == nil {
		all[label] = newLater[T]()
	}
	return all[label]
}

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	d := &driver{process: make(map[string]*later[*pillion.Process]), subs: make(map[string]*later[*pillion.Subscription]),
		calls: make(map[string]*later[pillion.Event]), refs: make(map[string]*later[uint64]),
		served: make(map[string]*pillion.Served), holds: make(map[string]chan any)}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var a action
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			fmt.Fprintln(os.Stderr, "driver:", err)
			os.Exit(1)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			value, err := d.run(&a)
			if err != nil {
				d.say(object{"saw": a.As, "error": described(err)})
			} else {
				d.say(object{"saw": a.As, "value": value})
			}
		}()
		// Those that wait for something are left to themselves; what they write is written by then.
		select {
		case <-ended:
		case <-time.After(15 * time.Millisecond):
		}
	}
}

func (d *driver) say(line object) {
	text, err := json.Marshal(plain(line))
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	d.out.Lock()
	defer d.out.Unlock()
	os.Stdout.Write(append(text, '\n'))
}

func described(err error) object {
	var failure *pillion.Error
	if !errors.As(err, &failure) {
		return object{"code": fmt.Sprintf("%T", err), "message": err.Error(), "maybe_applied": false}
	}
	told := object{"code": failure.Code, "message": failure.Message, "maybe_applied": failure.MaybeApplied}
	for name, text := range map[string]string{"class": failure.Class, "reason": failure.Reason, "stack": failure.Stack} {
		if text != "" {
			told[name] = text
		}
	}
	if failure.Nodes != nil {
		told["nodes"] = failure.Nodes
	}
	return told
}

// plain makes values of bodies such that JSON can say them.
func plain(value any) any {
	switch value := value.(type) {
	case []byte:
		return object{"$bytes": base64.StdEncoding.EncodeToString(value)}
	case object:
		for name, member := range value {
			value[name] = plain(member)
		}
	case map[any]any:
		named := make(object)
		for name, member := range value {
			named[fmt.Sprint(name)] = plain(member)
		}
		return named
	case []any:
		for i := range value {
			value[i] = plain(value[i])
		}
	}
	return value
}

// value reads a value as a body has it.
func value(text json.RawMessage) any {
	if len(text) == 0 {
		return nil
	}
	var any any
	decoder := json.NewDecoder(bytesReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&any); err != nil {
		return nil
	}
	return unplain(any)
}

func unplain(value any) any {
	switch value := value.(type) {
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return whole
		}
		float, _ := value.Float64()
		return float
	case object:
		if text, ok := value["$bytes"].(string); ok && len(value) == 1 {
			data, _ := base64.StdEncoding.DecodeString(text)
			return data
		}
		for name := range value {
			value[name] = unplain(value[name])
		}
	case []any:
		for i := range value {
			value[i] = unplain(value[i])
		}
	}
	return value
}

// body is what is sent.
func (a *action) body() any {
	body := value(a.Body)
	if data, ok := body.([]byte); ok && a.CT != "" {
		return pillion.Bytes(a.CT, data)
	}
	if len(a.Body) == 0 {
		return pillion.Body{}
	}
	return body
}

// seen is an event as the kit compares it.
func seen(event *pillion.Event) object {
	told := event.Members()
	if len(event.Body.Data) > 0 && event.Kind != pillion.KindGroup {
		told["body"] = event.Body.Value()
	}
	return plain(told).(object)
}

// fits says whether an event has these members, whole.
func fits(event *pillion.Event, match map[string]json.RawMessage) bool {
	told := seen(event)
	for name, want := range match {
		has, err := json.Marshal(told[name])
		if err != nil {
			return false
		}
		var left, right any
		_ = json.Unmarshal(has, &left)
		_ = json.Unmarshal(want, &right)
		if !reflect.DeepEqual(left, right) {
			return false
		}
	}
	return true
}

func (a *action) context() (context.Context, context.CancelFunc) {
	if a.TimeoutMs != nil {
		return context.WithTimeout(context.Background(), time.Duration(*a.TimeoutMs)*time.Millisecond)
	}
	return context.WithCancel(context.Background())
}
