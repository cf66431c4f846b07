package fuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// maxReads bounds the reads that are answered side by side, and with them the
// memory: maxRead bytes each at most. One file that has to be waited for should
// not hold up the others.
const maxReads = 256

// Files is what a Server serves: files with a number for a name. All methods may
// be called from any goroutine.
type Files interface {
	// Size returns the size of a file in bytes, and whether there is such a
	// file. It does not block.
	Size(number uint64) (int64, bool)
	// ReadAt reads like an io.ReaderAt. It may take long: whoever reads waits.
	// An error becomes EIO.
	ReadAt(number uint64, p []byte, offset int64) (int, error)
}

// Server answers the kernel.
type Server struct {
	device *os.File
	// fd is device's, asked for once: asking makes it block.
	fd     int
	files  Files
	logger *slog.Logger

	reads   chan struct{}
	running sync.WaitGroup
}

// NewServer returns a Server that answers nothing until Serve is called. It may
// be the first on this descriptor, or follow one that died. The descriptor stays
// the caller's.
func NewServer(device *os.File, files Files, logger *slog.Logger) *Server {
	return &Server{
		device: device, fd: int(device.Fd()), files: files, logger: logger,
		reads: make(chan struct{}, maxReads),
	}
}

// Serve answers until the file system is unmounted, which is no error, or until
// ctx ends. Then it returns at once: reads that are under way may last, and who
// serves after it is asked for them again.
func (s *Server) Serve(ctx context.Context) error {
	// The wait for requests is the runtime's then, and no thread's.
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return fmt.Errorf("serving FUSE: %w", err)
	}
	dup, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return fmt.Errorf("serving FUSE: %w", err)
	}
	device := os.NewFile(uintptr(dup), s.device.Name())
	defer device.Close()
	stop := context.AfterFunc(ctx, func() { device.Close() })
	defer stop()

	s.resend()
	buffer := make([]byte, requestSize)
	for {
		n, err := device.Read(buffer)
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT): // ENOENT: the request was withdrawn
			continue
		default:
			return fmt.Errorf("reading a request from the kernel: %w", err)
		}
		r, ok := parse(buffer[:n])
		if !ok {
			return errors.New("the kernel's FUSE request makes no sense")
		}
		s.handle(ctx, r)
	}
}

// resend asks the kernel for what a server before this one took and did not
// answer. Kernels before 6.9 do not know it; whoever waits for such an answer
// waits until the file system is unmounted.
func (s *Server) resend() {
	message := native.AppendUint32(nil, outHeaderSize)
	message = native.AppendUint32(message, notifyResend)
	message = native.AppendUint64(message, 0)
	if _, err := unix.Write(s.fd, message); err != nil && !errors.Is(err, unix.ENOTCONN) {
		s.logger.Debug("asking for unanswered FUSE requests", "error", err)
	}
}

// handle answers a request, reads from a goroutine of their own.
func (s *Server) handle(ctx context.Context, r request) {
	switch r.opcode {
	case opForget, opBatchForget, opDestroy:
	case opInit:
		if len(r.body) < 8 || native.Uint32(r.body) != protocolMajor || native.Uint32(r.body[4:]) < 23 {
			s.fail(r, unix.EPROTO)
			return
		}
		s.answer(r, appendInit(nil))
	case opLookup:
		s.lookup(r)
	case opGetattr:
		if r.node == rootNode {
			s.answer(r, appendAttributes(nil, rootNode, unix.S_IFDIR|0o500, 0))
		} else if size, ok := s.files.Size(r.node - firstNode); ok {
			s.answer(r, appendAttributes(nil, r.node, unix.S_IFREG|0o400, size))
		} else {
			s.fail(r, unix.ENOENT)
		}
	case opOpen:
		body := native.AppendUint64(nil, 0)
		body = native.AppendUint32(body, openDirect)
		s.answer(r, native.AppendUint32(body, 0))
	case opRelease:
		s.answer(r, nil)
	case opStatfs:
		s.answer(r, make([]byte, 80))
	case opRead:
		s.startRead(ctx, r)
	default:
		// INTERRUPT is among them, and on purpose: a read of an ordinary file is
		// not ended by a signal, and told so the kernel asks no more.
		s.fail(r, unix.ENOSYS)
	}
}

func (s *Server) lookup(r request) {
	if n := len(r.body); r.node == rootNode && n > 1 {
		number, err := strconv.ParseUint(string(r.body[:n-1]), 10, 32)
		if size, ok := s.files.Size(number); ok && err == nil {
			s.answer(r, appendEntry(nil, firstNode+number, unix.S_IFREG|0o400, size))
			return
		}
	}
	s.fail(r, unix.ENOENT)
}

func (s *Server) startRead(ctx context.Context, r request) {
	if len(r.body) < readInSize {
		s.fail(r, unix.EINVAL)
		return
	}
	offset, size := int64(native.Uint64(r.body[8:])), int(native.Uint32(r.body[16:]))
	if size > maxRead || offset < 0 {
		s.fail(r, unix.EINVAL)
		return
	}
	s.reads <- struct{}{}
	s.running.Go(func() {
		defer func() { <-s.reads }()
		message := make([]byte, outHeaderSize+size)
		n, err := s.files.ReadAt(r.node-firstNode, message[outHeaderSize:], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			if ctx.Err() != nil {
				return // the next server is asked for it
			}
			s.logger.Error("a layer cannot be read", "file", r.node-firstNode, "offset", offset, "error", err)
			s.fail(r, unix.EIO)
			return
		}
		appendAnswer(message[:0], r.unique, 0, n)
		s.write(message[:outHeaderSize+n])
	})
}

// Wait waits for reads that are under way after Serve has returned.
func (s *Server) Wait() { s.running.Wait() }

func (s *Server) answer(r request, body []byte) {
	s.write(append(appendAnswer(make([]byte, 0, outHeaderSize+len(body)), r.unique, 0, len(body)), body...))
}

func (s *Server) fail(r request, errno unix.Errno) {
	s.write(appendAnswer(nil, r.unique, errno, 0))
}

// write sends an answer.
func (s *Server) write(message []byte) {
	for {
		_, err := unix.Write(s.fd, message)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil, errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
			// Withdrawn, or the file system is gone: nobody waits for it.
		default:
			s.logger.Error("the kernel does not take an answer", "error", err)
		}
		return
	}
}
