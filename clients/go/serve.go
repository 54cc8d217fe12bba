package pillion

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/fxamacker/cbor/v2"
)

// Functions are functions by the names that others call them by. Any function will do: its arguments are decoded into the types of its
// parameters, a first parameter of type [context.Context] ends when nobody waits for the answer any more, and its results are none, a value,
// an error, or both. An error, and a panic, is an exception to the caller.
type Functions map[string]any

// Served is a module that this app serves.
type Served struct {
	process *Process
	module  *module
}

// Serve answers calls of functions of a module, side by side, until Close. After a restart of the node it is served again.
//
// [ErrBadArg] when something is no function, or has results of another form.
func (c *Client) Serve(ctx context.Context, name string, functions Functions) (*Served, error) {
	m := &module{functions: make(map[string]*function)}
	names := make([]string, 0, len(functions))
	for name, f := range functions {
		function, err := newFunction(name, reflect.ValueOf(f))
		if err != nil {
			return nil, err
		}
		m.functions[name] = function
		names = append(names, name)
	}
	slices.Sort(names)
	p := newProcess(c)
	p.spec.label = cut("serve "+name, 255)
	p.serves, p.later = m, true
	m.process = p
	m.renew()
	if err := c.spawn(ctx, p, false); err != nil {
		return nil, err
	}
	list, err := encode(names)
	if err != nil {
		return nil, err
	}
	defer list.free()
	_, err = c.declare(ctx, &declaration{process: p, kind: declaresModule, key: name, op: "serve",
		fields: []field{text("module", name), raw("functions", slices.Clone(list.data))}})
	if err != nil {
		p.drop("normal")
		return nil, err
	}
	c.tasks.Add(1)
	go m.loop(m.ctx, m.ended)
	return &Served{p, m}, nil
}

// ServeMethods serves the exported methods of a value, by their names in snake_case: TakeAll as take_all.
func (c *Client) ServeMethods(ctx context.Context, name string, value any) (*Served, error) {
	functions := make(Functions)
	v := reflect.ValueOf(value)
	for i := range v.NumMethod() {
		functions[snake(v.Type().Method(i).Name)] = v.Method(i).Interface()
	}
	return c.Serve(ctx, name, functions)
}

// Process is who answers.
func (s *Served) Process() *Process { return s.process }

// Close serves no more; calls under way are cancelled, and their callers hear that the process has ended.
func (s *Served) Close(ctx context.Context) error {
	err := s.process.Exit(ctx, "")
	s.module.shut(ctx)
	s.process.drop("normal")
	if errors.Is(err, ErrNoProc) || errors.Is(err, ErrClosed) {
		err = nil
	}
	return err
}

type module struct {
	process   *Process
	functions map[string]*function
	running   atomic.Int64
	mu        sync.Mutex
	ctx       context.Context
	cancel    context.CancelFunc
	ended     chan struct{}
	calls     sync.WaitGroup
}

func (m *module) renew() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx, m.cancel = context.WithCancel(m.process.client.ctx)
	m.ended = make(chan struct{})
}

func (m *module) state() (context.Context, context.CancelFunc, chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ctx, m.cancel, m.ended
}

func (m *module) loop(ctx context.Context, ended chan struct{}) {
	p := m.process
	defer p.client.tasks.Done()
	defer close(ended)
	defer m.calls.Wait()
	for {
		var event Event
		if err := p.take(ctx, &event, nil); err != nil {
			return
		}
		if event.Kind != KindRPC {
			if event.counted() {
				m.running.Add(1)
				p.used(&event, m.running.Add(-1) == 0)
			}
			continue
		}
		m.running.Add(1)
		m.calls.Add(1)
		go m.call(ctx, event)
	}
}

func (m *module) call(ctx context.Context, event Event) {
	defer m.calls.Done()
	p := m.process
	ctx, cancel := p.begin(ctx, &event)
	defer cancel()
	result, err := m.invoke(ctx, &event)
	// Who answers is not held by the end of who called.
	answer := p.client.ctx
	if err == nil {
		err = event.Reply(answer, result)
		if !errors.Is(err, ErrBadArg) {
			err = nil
		}
	}
	if err != nil {
		_ = event.Raise(answer, err)
	}
	p.used(&event, m.running.Add(-1) == 0)
}

func (m *module) invoke(ctx context.Context, event *Event) (result any, err error) {
	f := m.functions[event.Function()]
	if f == nil {
		return nil, &Exception{Class: "undef", Reason: "there is no function " + event.Function()}
	}
	defer func() {
		if value := recover(); value != nil {
			result, err = nil, recovered(value, debug.Stack())
		}
	}()
	result, err = f.call(ctx, event.Body)
	return result, placed(err, f.place)
}

func (m *module) leave()                { m.process.finish() }
func (m *module) left() <-chan struct{} { _, _, ended := m.state(); return ended }

func (m *module) shut(ctx context.Context) {
	_, cancel, ended := m.state()
	cancel()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

func (m *module) revive() {
	p := m.process
	p.mu.Lock()
	p.over = false
	p.mu.Unlock()
	m.renew()
	p.client.tasks.Add(1)
	go m.loop(m.ctx, m.ended)
}

// function is one that can be called with a body.
type function struct {
	value    reflect.Value
	context  bool
	params   []reflect.Type
	variadic bool
	result   bool
	fails    bool
	// place is where the function is: errors have no stack of their own.
	place string
}

var (
	contextType = reflect.TypeFor[context.Context]()
	errorType   = reflect.TypeFor[error]()
)

func newFunction(name string, value reflect.Value) (*function, error) {
	if value.Kind() != reflect.Func || value.IsNil() {
		return nil, newError("badarg", "%s is no function", name)
	}
	t := value.Type()
	f := &function{value: value, variadic: t.IsVariadic(), place: placeOf(value.Pointer())}
	for i := range t.NumIn() {
		if i == 0 && t.In(0) == contextType {
			f.context = true
			continue
		}
		f.params = append(f.params, t.In(i))
	}
	switch n := t.NumOut(); {
	case n == 2 && t.Out(1) == errorType:
		f.result, f.fails = true, true
	case n == 1 && t.Out(0) == errorType:
		f.fails = true
	case n == 1:
		f.result = true
	case n != 0:
		return nil, newError("badarg", "%s has %d results; there may be a value, an error, or both", name, n)
	}
	return f, nil
}

// call decodes the arguments: a list is all of them, anything else the only one.
func (f *function) call(ctx context.Context, body Body) (any, error) {
	given := []Body{}
	if len(body.Data) > 0 {
		given = append(given, body)
		if body.ContentType == "" && body.Data[0]&0xe0 == 0x80 {
			items, err := Decode[[]cbor.RawMessage](body)
			if err != nil {
				return nil, err
			}
			given = given[:0]
			for _, item := range items {
				given = append(given, Body{Data: item})
			}
		}
	}
	if len(given) != len(f.params) && !(f.variadic && len(given) >= len(f.params)-1) {
		return nil, &Exception{Class: "badarg", Reason: fmt.Sprintf("%d arguments were given; it takes %d", len(given), len(f.params))}
	}
	in := make([]reflect.Value, 0, len(given)+1)
	if f.context {
		in = append(in, reflect.ValueOf(ctx))
	}
	for i, item := range given {
		t := f.params[min(i, len(f.params)-1)]
		if f.variadic && i >= len(f.params)-1 {
			t = f.params[len(f.params)-1].Elem()
		}
		value := reflect.New(t)
		if err := item.Decode(value.Interface()); err != nil {
			return nil, &Exception{Class: "badarg", Reason: fmt.Sprintf("argument %d: %v", i+1, err)}
		}
		in = append(in, value.Elem())
	}
	out := f.value.Call(in)
	if f.fails {
		if err, _ := out[len(out)-1].Interface().(error); err != nil {
			return nil, err
		}
	}
	if f.result {
		return out[0].Interface(), nil
	}
	return nil, nil
}

func snake(name string) string {
	var text strings.Builder
	letters := []rune(name)
	for i, letter := range letters {
		if unicode.IsUpper(letter) {
			after := i > 0 && (unicode.IsLower(letters[i-1]) || unicode.IsDigit(letters[i-1]))
			last := i > 0 && i+1 < len(letters) && unicode.IsUpper(letters[i-1]) && unicode.IsLower(letters[i+1])
			if after || last {
				text.WriteByte('_')
			}
			letter = unicode.ToLower(letter)
		}
		text.WriteRune(letter)
	}
	return text.String()
}
