package pillion

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheOnlySocketThatAnswersIsFoundAndNoneAndSeveralSayWhatToDo(t *testing.T) {
	dir, err := os.MkdirTemp("", "pf")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	uid := uint32(os.Geteuid())
	if _, err := findUnder(dir+"/none", uid, ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "pillion up") {
		t.Fatal(err)
	}
	listen := func(name string) string {
		path := filepath.Join(dir, "mesh", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		return path
	}
	listen("a.operator.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "mesh", "dead.sock")})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	a := listen("a.sock")
	if got, err := findUnder(dir, uid, ""); err != nil || got != a {
		t.Fatal(got, err)
	}
	b := listen("b.sock")
	if _, err := findUnder(dir, uid, ""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "PILLION_SOCKET") {
		t.Fatal(err)
	}
	if got, err := findUnder(dir, uid, a); err != nil || got != b {
		t.Fatal(got, err)
	}
	if _, err := findUnder(dir, uid+1, ""); uid == 0 == (err != nil && strings.Contains(err.Error(), "another user")) {
		t.Fatal(err)
	}
}

func TestMethodsAreServedInSnakeCase(t *testing.T) {
	for name, want := range map[string]string{"TakeAll": "take_all", "Add": "add", "HTTPGet": "http_get", "GetURL": "get_url", "Page2Up": "page2_up"} {
		if got := snake(name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
}
