package cloudprovider

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestKindOf(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		err      error
		want     Kind
		definite bool
	}{
		"nil":       {reason: "no error has no kind", err: nil, want: ""},
		"plain":     {reason: "an unknown error may have had an effect", err: errors.New("connection reset"), want: Transient},
		"context":   {reason: "a cancelled call may have had an effect", err: context.Canceled, want: Transient},
		"no kind":   {reason: "a forgotten kind must not look definite", err: &Error{Code: "X"}, want: Transient},
		"wrapped":   {reason: "callers wrap", err: fmt.Errorf("launching instance: %w", &Error{Kind: SubnetFull}), want: SubnetFull, definite: true},
		"capacity":  {reason: "refused as a whole", err: &Error{Kind: InsufficientCapacity}, want: InsufficientCapacity, definite: true},
		"throttled": {reason: "refused at the door", err: &Error{Kind: Throttled}, want: Throttled, definite: true},
		"conflict":  {reason: "the first request may have launched", err: &Error{Kind: TokenConflict}, want: TokenConflict},
		"ended":     {reason: "something was launched", err: &Error{Kind: Terminated}, want: Terminated},
	} {
		t.Run(name, func(t *testing.T) {
			got := KindOf(tc.err)
			if got != tc.want {
				t.Errorf("%s: KindOf(%v) = %q, want %q", tc.reason, tc.err, got, tc.want)
			}
			if got.Definite() != tc.definite {
				t.Errorf("%s: Definite() = %v, want %v", tc.reason, got.Definite(), tc.definite)
			}
		})
	}
}

func TestErrorText(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		err    *Error
		want   string
	}{
		"answer":    {reason: "what, code, why", err: &Error{Kind: Denied, Action: "ec2:RunInstances", Code: "UnauthorizedOperation", Message: "You are not authorized."}, want: "ec2:RunInstances: UnauthorizedOperation: You are not authorized."},
		"no answer": {reason: "the cause stands in", err: &Error{Kind: Transient, Action: "ec2:RunInstances", Err: errors.New("EOF")}, want: "ec2:RunInstances: EOF"},
		"bare":      {reason: "never empty", err: &Error{Kind: NotFound}, want: "NotFound"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.err.Error(); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}
