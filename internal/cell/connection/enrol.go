package connection

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// maxConflicts is how often writing the enrolment is tried when somebody else
// writes the Cell's status at the same time.
const maxConflicts = 5

// errOtherKey: a key other than the one that enrolled wants to enrol.
var errOtherKey = errors.New("another key enrolled for this cell before")

// errCellEnds: the Cell was deleted or given up before anybody enrolled, and its
// pod decided about as one that no kubelet has seen.
var errCellEnds = errors.New("the Cell ends")

// errCellGone: the Cell object that the session is for does not exist any more.
var errCellGone = errors.New("the Cell was deleted")

// refusalReason is a label of the metric if the error means that somebody, at
// the cell's address, is not the cell; else it is empty.
func refusalReason(err error) string {
	switch {
	case errors.Is(err, enrolment.ErrProof):
		return "proof"
	case errors.Is(err, errOtherKey):
		return "key"
	case errors.Is(err, tunnel.ErrAlreadyEnrolled):
		return "already"
	case errors.Is(err, tunnel.ErrUntrusted):
		return "certificate"
	default:
		return ""
	}
}

// enrol gives the agent its certificate. It may be repeated: after a failure
// anywhere the same key enrols again, and no other.
func (s *session) enrol(ctx context.Context) error {
	began := s.m.cfg.Clock.Now()
	err := s.m.cfg.Dialer.Enrol(ctx, s.addr, s.cell, s.launched.Signer().EnrolmentToken(s.uid), s.recordAndSign)
	if errors.Is(err, tunnel.ErrAlreadyEnrolled) {
		// Another Kip of ours may have done it, and our cache not know yet.
		// Whether it is really the cell shows when it serves.
		if key, liveErr := s.recordedKey(ctx); liveErr != nil {
			return liveErr
		} else if key != "" {
			s.setKey(key)
			return nil
		}
	}
	if err != nil {
		return err
	}
	took := s.m.cfg.Clock.Since(began)
	s.m.metrics.enrolments.Inc()
	s.m.metrics.enrolSeconds.Observe(took.Seconds())
	s.log.Info("cell enrolled", "addr", s.addr, "key", s.key(), "took", took)
	return nil
}

// refuse tells operators of somebody who is not the cell. Of other errors it
// says nothing.
func (s *session) refuse(err error) {
	reason := refusalReason(err)
	if reason == "" {
		return
	}
	s.m.metrics.refused.WithLabelValues(reason).Inc()
	s.tell(v1beta1.ReasonEnrolmentRefused, reason, fmt.Sprintf("Whoever answers at %s was refused: %v", s.addr, err))
}

// tell makes an event on the Cell, unless the last one was for the same cause:
// what fails is tried again and again.
func (s *session) tell(event, cause, message string) {
	s.mu.Lock()
	same := s.reported == cause
	s.reported = cause
	s.mu.Unlock()
	if same {
		return
	}
	about := &v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: s.cell, UID: s.uid}}
	about.SetGroupVersionKind(v1beta1.GroupVersion.WithKind("Cell"))
	s.m.cfg.Events.Event(about, corev1.EventTypeWarning, event, message)
}

// recordAndSign writes the key down for good, unless another is, and only then
// signs for it: whatever happens next, no second key can enrol.
func (s *session) recordAndSign(ctx context.Context, pub crypto.PublicKey, keySHA256 string) ([]byte, error) {
	if err := s.record(ctx, keySHA256); err != nil {
		return nil, err
	}
	s.setKey(keySHA256)
	// The agent knows no other yet.
	return s.launched.Signer().SignCell(pub, s.cell, s.m.cfg.Clock.Now())
}

func (s *session) record(ctx context.Context, keySHA256 string) error {
	// The cache will do: if it is behind, the patch conflicts.
	var reader client.Reader = s.m.cfg.Client
	for range maxConflicts {
		cell, err := s.read(ctx, reader)
		if err != nil {
			return err
		}
		if e := cell.Status.Enrolment; e != nil {
			if e.KeySHA256 != keySHA256 {
				return fmt.Errorf("%w: %s, and now %s", errOtherKey, e.KeySHA256, keySHA256)
			}
			return nil
		}
		if cell.DeletionTimestamp != nil || cell.Status.Phase == v1beta1.CellTerminating {
			return errCellEnds
		}
		base := cell.DeepCopy()
		cell.Status.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: keySHA256, Time: metav1.NewTime(s.m.cfg.Clock.Now())}
		err = s.m.cfg.Client.Status().Patch(ctx, cell, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			return errCellGone
		case !apierrors.IsConflict(err):
			return fmt.Errorf("writing down the cell's key: %w", err)
		}
		reader = s.m.cfg.Live
	}
	return errors.New("writing down the cell's key: the Cell's status is written by others without pause")
}

func (s *session) recordedKey(ctx context.Context) (string, error) {
	cell, err := s.read(ctx, s.m.cfg.Live)
	if err != nil || cell.Status.Enrolment == nil {
		return "", err
	}
	return cell.Status.Enrolment.KeySHA256, nil
}

// read returns the session's own Cell.
func (s *session) read(ctx context.Context, reader client.Reader) (*v1beta1.Cell, error) {
	var cell v1beta1.Cell
	err := reader.Get(ctx, client.ObjectKey{Name: s.cell}, &cell)
	if apierrors.IsNotFound(err) || (err == nil && cell.UID != s.uid) {
		return nil, errCellGone
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Cell: %w", err)
	}
	return &cell, nil
}
