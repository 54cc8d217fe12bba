package pillion_test

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/pillion/pillion/clients/go/internal/nodes"
)

func equal(a, b any) bool { return reflect.DeepEqual(a, b) }

// examples are the programs below examples, built.
type examples struct {
	t   *testing.T
	dir string
}

func buildExamples(t *testing.T) *examples {
	t.Helper()
	e := &examples{t, t.TempDir()}
	for _, name := range []string{"product_stock", "pos", "bot", "key_value_store"} {
		source := filepath.Join("..", "..", "examples", name, "go")
		if _, err := os.Stat(source); err != nil {
			t.Skip("skipped: the examples are not here; this is not the whole repository")
		}
		build := exec.Command("go", "build", "-o", filepath.Join(e.dir, name), ".")
		build.Dir = source
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	return e
}

func (e *examples) command(node *nodes.Node, name string, args ...string) *exec.Cmd {
	command := exec.Command(filepath.Join(e.dir, name), args...)
	command.Env = append(os.Environ(), "PILLION_SOCKET="+node.Socket)
	command.Stderr = os.Stderr
	return command
}

// serve starts one and waits for its first line: then it is registered.
func (e *examples) serve(node *nodes.Node, name string, args ...string) {
	e.t.Helper()
	command := e.command(node, name, args...)
	out, err := command.StdoutPipe()
	ok(e.t, err)
	ok(e.t, command.Start())
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil {
		e.t.Fatalf("%s: %v", name, err)
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = lines.WriteTo(discard{})
	}()
	e.t.Cleanup(func() {
		_ = command.Process.Kill()
		<-drained
		_ = command.Wait()
	})
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

func (e *examples) run(node *nodes.Node, name string, args ...string) string {
	e.t.Helper()
	out, err := e.command(node, name, args...).Output()
	if err != nil {
		e.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return strings.TrimSuffix(string(out), "\n")
}
