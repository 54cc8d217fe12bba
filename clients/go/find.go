package pillion

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// findSocket finds the only node of this user that answers, but for one that is about to leave.
func findSocket(but string) (string, error) {
	dir := os.Getenv("PILLION_DIR")
	if dir == "" {
		dir = fmt.Sprintf("/tmp/pillion-%d", os.Geteuid())
	}
	return findUnder(dir, uint32(os.Geteuid()), but)
}

func findUnder(dir string, uid uint32, but string) (string, error) {
	none := newError("unreachable", "no node answers under %s; start one with `pillion up`, or name its socket by PILLION_SOCKET", dir)
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", none
	} else if err != nil {
		return "", newError("unreachable", "%v; name a socket by PILLION_SOCKET", err)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != uid && stat.Uid != 0 {
		return "", newError("unreachable", "%s belongs to another user; name a socket by PILLION_SOCKET", dir)
	}
	paths, _ := filepath.Glob(filepath.Join(strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir), "*", "*.sock"))
	paths = slices.DeleteFunc(paths, func(path string) bool {
		if strings.HasSuffix(path, ".operator.sock") || path == but {
			return true
		}
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	switch len(paths) {
	case 0:
		return "", none
	case 1:
		return paths[0], nil
	}
	return "", newError("unreachable", "%d nodes answer; choose one by PILLION_SOCKET: %s", len(paths), strings.Join(paths, ", "))
}
