package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
)

// podLogs serves the files in which the container runtime writes what containers
// say. Those that are held are served on when the kubelet has removed them, with
// all that was written after they were held.
type podLogs struct {
	dir   string
	files http.Handler

	mu   sync.Mutex
	held map[string]*os.File // by path below dir
}

func newPodLogs(dir string) *podLogs {
	return &podLogs{dir: dir, files: http.FileServer(http.Dir(dir)), held: map[string]*os.File{}}
}

// hold keeps every file that is there open, which keeps it alive. It may be
// repeated. The machine is used once, so nothing is ever let go.
func (l *podLogs) hold() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	names, err := fs.Glob(os.DirFS(l.dir), "*/*/*.log") // pod, container, run
	if err != nil {
		return fmt.Errorf("looking for logs to hold: %w", err)
	}
	for _, name := range names {
		if l.held[name] != nil {
			continue
		}
		file, err := os.Open(filepath.Join(l.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("holding a log: %w", err)
		}
		l.held[name] = file
	}
	return nil
}

func (l *podLogs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	l.mu.Lock()
	file := l.held[name]
	l.mu.Unlock()
	if file == nil || exists(filepath.Join(l.dir, name)) {
		l.files.ServeHTTP(w, r)
		return
	}
	info, err := file.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	http.ServeContent(w, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
