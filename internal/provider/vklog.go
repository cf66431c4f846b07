package provider

import (
	"context"
	"fmt"
	"log/slog"

	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
)

// libraryLog passes the virtual-kubelet library's log on to slog. What the
// library calls information is told by Kip's own log where it matters, so it
// comes out at debug level.
type libraryLog struct{ log *slog.Logger }

// UseLibraryLog makes the library log to log. Call it once, at start.
func UseLibraryLog(log *slog.Logger) { vklog.L = libraryLog{log.With("component", "virtual-kubelet")} }

var _ vklog.Logger = libraryLog{}

func (l libraryLog) print(level slog.Level, args []any) {
	l.log.Log(context.Background(), level, fmt.Sprint(args...)) //nolint:sloglint // the text is the library's
}

func (l libraryLog) printf(level slog.Level, format string, args []any) {
	l.log.Log(context.Background(), level, fmt.Sprintf(format, args...)) //nolint:sloglint // the text is the library's
}

func (l libraryLog) Debug(args ...any)            { l.print(slog.LevelDebug, args) }
func (l libraryLog) Debugf(f string, args ...any) { l.printf(slog.LevelDebug, f, args) }
func (l libraryLog) Info(args ...any)             { l.print(slog.LevelDebug, args) }
func (l libraryLog) Infof(f string, args ...any)  { l.printf(slog.LevelDebug, f, args) }
func (l libraryLog) Warn(args ...any)             { l.print(slog.LevelWarn, args) }
func (l libraryLog) Warnf(f string, args ...any)  { l.printf(slog.LevelWarn, f, args) }
func (l libraryLog) Error(args ...any)            { l.print(slog.LevelError, args) }
func (l libraryLog) Errorf(f string, args ...any) { l.printf(slog.LevelError, f, args) }

// Fatal logs and goes on: no library ends Kip.
func (l libraryLog) Fatal(args ...any)            { l.print(slog.LevelError, args) }
func (l libraryLog) Fatalf(f string, args ...any) { l.printf(slog.LevelError, f, args) }

func (l libraryLog) WithField(key string, value any) vklog.Logger {
	return libraryLog{l.log.With(key, value)}
}

func (l libraryLog) WithFields(fields vklog.Fields) vklog.Logger {
	log := l.log
	for key, value := range fields {
		log = log.With(key, value)
	}
	return libraryLog{log}
}

func (l libraryLog) WithError(err error) vklog.Logger { return libraryLog{l.log.With("err", err)} }
