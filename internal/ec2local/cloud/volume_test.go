package cloud

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// TestModifyVolume: a modification takes its time, and the next one has to wait for hours.
func TestModifyVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t, machinetest.New())
		cfg.Delays.ModifyVolume = time.Minute
		c := open(t, cfg)
		defer run(c)()
		id := launch(t, c, small(""))[0].Volume.ID
		grow := func(to int) string {
			_, err := c.ModifyVolume(id, false, func(v *Volume) error { v.SizeGiB = to; return nil })
			var refused *query.Error
			if errors.As(err, &refused) {
				return refused.Code
			}
			return ""
		}
		for _, step := range []struct {
			reason string
			after  time.Duration
			size   int
			want   string
		}{
			{"volumes do not shrink", 0, RootVolumeGiB - 1, "InvalidParameterValue"},
			{"the first one", 0, 10, ""},
			{"one at a time", time.Minute - 1, 11, "IncorrectModificationState"},
			{"not so often", time.Minute, 11, "VolumeModificationRateExceeded"},
			{"six hours later", modificationPause, 11, ""},
		} {
			sleep(step.after)
			if got := grow(step.size); got != step.want {
				t.Errorf("%s: got %q, want %q", step.reason, got, step.want)
			}
		}
		i := c.volumeOwner(id)
		if m := i.Volume.Modification; i.Volume.SizeGiB != 11 || m.SizeGiB != 10 {
			t.Errorf("the volume has %d GiB, and had %d before", i.Volume.SizeGiB, m.SizeGiB)
		}
	})
}
