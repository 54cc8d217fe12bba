package pillion

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// Error is how everything that the node, a callee or this package refuses ends. [errors.Is] compares the code with one of the
// Err variables, [errors.As] gives the whole.
type Error struct {
	// Code is one word of a fixed list, such as "noproc" or "timeout": docs/protocol.md, "Codes".
	Code string
	// Message is a sentence for people.
	Message string
	// MaybeApplied says that what was asked for may have been done all the same. Where it is false, it was not.
	MaybeApplied bool
	// Reason is why a callee died (code "exit"), or the text of what it raised (code "exception").
	Reason string
	// Class is the type of what a callee raised.
	Class string
	// Stack is where it was raised, at most 16 KiB.
	Stack string
	// Nodes are those that a command did not get to, or that are waited for.
	Nodes []string

	cause error
}

// What a code is compared with by [errors.Is].
var (
	ErrBadArg       = &Error{Code: "badarg"}
	ErrBadOp        = &Error{Code: "badop"}
	ErrCallingSelf  = &Error{Code: "calling_self"}
	ErrCancelled    = &Error{Code: "cancelled"}
	ErrCannotStart  = &Error{Code: "cannot_start"}
	ErrDenied       = &Error{Code: "denied"}
	ErrDraining     = &Error{Code: "draining"}
	ErrException    = &Error{Code: "exception"}
	ErrExit         = &Error{Code: "exit"}
	ErrNoConnection = &Error{Code: "noconnection"}
	ErrNoProc       = &Error{Code: "noproc"}
	ErrNotFound     = &Error{Code: "not_found"}
	ErrOverloaded   = &Error{Code: "overloaded"}
	ErrTaken        = &Error{Code: "taken"}
	ErrTimeout      = &Error{Code: "timeout"}
	ErrTooLarge     = &Error{Code: "too_large"}
	ErrUndef        = &Error{Code: "undef"}
	ErrUnsupported  = &Error{Code: "unsupported"}

	// ErrLost is of this package: the connection to the node broke before the answer came. MaybeApplied says whether the node
	// may have carried the command out.
	ErrLost = &Error{Code: "lost"}
	// ErrClosed is of this package: the client was closed.
	ErrClosed = &Error{Code: "closed"}
	// ErrUnreachable is of this package: there is no node to connect to; the message says where it was looked for.
	ErrUnreachable = &Error{Code: "unreachable"}
)

func (e *Error) Error() string {
	if e.Message == "" {
		return "pillion: " + e.Code
	}
	return "pillion: " + e.Code + ": " + e.Message
}

// Is makes an error equal to the Err variable of its code, and a timeout to [context.DeadlineExceeded].
func (e *Error) Is(target error) bool {
	if other, ok := target.(*Error); ok {
		return other.Message == "" && other.Code == e.Code
	}
	return target == context.DeadlineExceeded && e.Code == "timeout"
}

func (e *Error) Unwrap() error { return e.cause }

func newError(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func errLost(maybe bool) *Error {
	message := "the connection to the node broke; the command was not carried out"
	if maybe {
		message = "the connection to the node broke; the command may have been carried out"
	}
	return &Error{Code: "lost", Message: message, MaybeApplied: maybe}
}

func errClosed() *Error { return newError("closed", "the client is closed") }

// contextError says why a wait ended early, and whether what was asked for may happen all the same.
func contextError(err error, what string, maybe bool) *Error {
	code := "cancelled"
	if errors.Is(err, context.DeadlineExceeded) {
		code = "timeout"
	}
	return &Error{Code: code, Message: what + ": " + err.Error(), MaybeApplied: maybe, cause: err}
}

// Exception is an error that a served function or a [GenServer] gives its caller with a class of its own choice.
type Exception struct {
	// Class is the kind of error, at most 255 bytes; "undef" says that there is no such function.
	Class string
	// Reason is its text.
	Reason string
	// Stack is where it was raised, if that is of use; its last 16 KiB are told.
	Stack string
}

func (e *Exception) Error() string { return e.Class + ": " + e.Reason }

// raised is what a caller, or who is linked, hears of an error.
func raised(err error) *Exception {
	var exception *Exception
	if errors.As(err, &exception) {
		return exception
	}
	var ours *Error
	if errors.As(err, &ours) {
		return &Exception{Class: ours.Code, Reason: ours.Message}
	}
	class := fmt.Sprintf("%T", err)
	class = class[strings.LastIndexByte(class, '.')+1:]
	switch class {
	case "errorString", "wrapError", "wrapErrors", "joinError", "fundamental", "":
		class = "error"
	}
	return &Exception{Class: class, Reason: err.Error()}
}

const stackMax = 16 * 1024

// recovered is what a panic becomes.
func recovered(value any, stack []byte) *Exception {
	exception := &Exception{Class: "panic", Reason: fmt.Sprint(value)}
	if err, ok := value.(error); ok {
		exception = raised(err)
		if _, ours := value.(runtime.Error); ours {
			exception.Class = "panic"
		}
	}
	if exception.Stack == "" {
		if len(stack) > stackMax {
			stack = stack[len(stack)-stackMax:]
		}
		exception.Stack = strings.ToValidUTF8(string(stack), "?")
	}
	return exception
}

// placed is what is told of an error that came out of a function: its stack is that function, unless it has one.
func placed(err error, place string) error {
	if err == nil {
		return nil
	}
	exception := *raised(err)
	if exception.Stack == "" {
		exception.Stack = place
	}
	return &exception
}

// placeOf names a function and its file.
func placeOf(pointer uintptr) string {
	f := runtime.FuncForPC(pointer)
	if f == nil {
		return ""
	}
	file, line := f.FileLine(pointer)
	return fmt.Sprintf("%s (%s:%d)", f.Name(), filepath.Base(file), line)
}

// exitReason is what an exception is as the end of a process: at most 1024 bytes.
func (e *Exception) exitReason() string { return cut(e.Class+": "+e.Reason, 1024) }

// cut shortens a text to whole characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "")
}
