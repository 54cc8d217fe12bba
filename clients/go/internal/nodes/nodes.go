// Package nodes starts real nodes for tests.
package nodes

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Mesh is a mesh of nodes of one test.
type Mesh struct {
	t    testing.TB
	bin  string
	name string
	dir  string
}

// Node is a running daemon.
type Node struct {
	mesh   *Mesh
	name   string
	args   []string
	Socket string
	cmd    *exec.Cmd
	log    *logs
}

// Find looks for the daemon: PILLION_BIN, else target/debug/pillion up the tree, else pillion on PATH.
func Find() string {
	if bin := os.Getenv("PILLION_BIN"); bin != "" {
		return bin
	}
	dir, _ := os.Getwd()
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		bin := filepath.Join(dir, "target", "debug", "pillion")
		if info, err := os.Stat(bin); err == nil && !info.IsDir() {
			return bin
		}
	}
	bin, _ := exec.LookPath("pillion")
	return bin
}

// New makes a mesh with a name and a secret of its own. Without a daemon the test is skipped.
func New(t testing.TB) *Mesh {
	t.Helper()
	bin := Find()
	if bin == "" {
		t.Skip("skipped: there is no daemon; build one by `cargo build`, or name it by PILLION_BIN")
	}
	random := make([]byte, 6)
	_, _ = rand.Read(random)
	// Socket paths are short: not below t.TempDir.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	command := exec.Command(bin, "cookie", "new")
	command.Env = environment()
	cookie, err := command.Output()
	if err != nil {
		t.Fatalf("no cookie: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cookie"), cookie, 0o600); err != nil {
		t.Fatal(err)
	}
	return &Mesh{t: t, bin: bin, name: "t" + hex.EncodeToString(random), dir: dir}
}

// Bin is the daemon's program.
func (m *Mesh) Bin() string { return m.bin }

// Dir is the directory in which nodes of this host find each other.
func (m *Mesh) Dir() string { return m.dir }

// Start starts a node and waits until its socket answers.
func (m *Mesh) Start(name string, args ...string) *Node {
	m.t.Helper()
	n := &Node{mesh: m, name: name, args: args, Socket: filepath.Join(m.dir, m.name, name+".sock")}
	n.Restart()
	m.t.Cleanup(n.Kill)
	return n
}

// Restart starts the node again; Kill or Stop it before.
func (n *Node) Restart() {
	m := n.mesh
	m.t.Helper()
	args := append([]string{"up", "--mesh", m.name, "--name", n.name, "--dir", m.dir, "--listen", "127.0.0.1:0",
		"--strategy", "local", "--cookie-file", filepath.Join(m.dir, "cookie")}, n.args...)
	n.cmd = exec.Command(m.bin, args...)
	n.cmd.Env = environment()
	n.log = &logs{}
	n.cmd.Stderr, n.cmd.Stdout = n.log, n.log
	if err := n.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	until := time.Now().Add(30 * time.Second)
	for {
		conn, err := net.Dial("unix", n.Socket)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(until) {
			m.t.Fatalf("node %s does not come up: %s", n.name, n.log.text())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// environment is that of the tests without what is meant for nodes and apps.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(set string) bool { return strings.HasPrefix(set, "PILLION_") })
}

// Kill ends the node at once, as by kill -9.
func (n *Node) Kill() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
		n.cmd = nil
	}
}

// Pause has the node do nothing any more, as a machine that hangs.
func (n *Node) Pause() { _ = n.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume has a paused one go on.
func (n *Node) Resume() { _ = n.cmd.Process.Signal(syscall.SIGCONT) }

// Terminate asks the node to stop, by SIGTERM.
func (n *Node) Terminate() { _ = n.cmd.Process.Signal(syscall.SIGTERM) }

// Wait waits for the end of the node.
func (n *Node) Wait() error {
	err := n.cmd.Wait()
	n.cmd = nil
	return err
}

// Command runs the daemon's command line against the node.
func (n *Node) Command(args ...string) string {
	n.mesh.t.Helper()
	command := exec.Command(n.mesh.bin, append([]string{"--socket", n.Socket}, args...)...)
	command.Env = environment()
	out, err := command.CombinedOutput()
	if err != nil {
		n.mesh.t.Fatalf("pillion %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Name is the node's whole name, as on this host.
func (n *Node) Name() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s@%s", n.name, strings.ToLower(host))
}

type logs struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(b)
	return len(b), nil
}

func (l *logs) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
