package config

import (
	"fmt"
	"strconv"
	"time"
)

func (c *Cells) setHealthDefaults() {
	if c.StatusInterval == 0 {
		c.StatusInterval = defaultStatusInterval
	}
	h := &c.Healthcheck
	if h.CloudAPI == nil && h.Status == nil {
		h.Status = &StatusCheck{}
	}
	if s := h.Status; s != nil && s.HealthyTimeout == nil {
		s.HealthyTimeout = new(int32(defaultStatusTimeout))
	}
	if a := h.CloudAPI; a != nil {
		if a.HealthyTimeout == nil {
			a.HealthyTimeout = new(int32(defaultCloudAPITimeout))
		}
		if a.Interval == 0 {
			a.Interval = defaultCloudAPIInterval
		}
	}
}

func (c *Cells) validateHealth(bad func(key, format string, args ...any)) {
	if c.StatusInterval < 1 {
		bad("cells.statusInterval", "%d is less than 1 (seconds)", c.StatusInterval)
	}
	h := c.Healthcheck
	if h.Status != nil && h.CloudAPI != nil {
		bad("cells.healthcheck", "give status or cloudAPI, not both")
	}
	if s := h.Status; s != nil {
		if err := checkHealthyTimeout(*s.HealthyTimeout); err != nil {
			bad("cells.healthcheck.status.healthyTimeout", "%v", err)
		}
	}
	if a := h.CloudAPI; a != nil {
		if err := checkHealthyTimeout(*a.HealthyTimeout); err != nil {
			bad("cells.healthcheck.cloudAPI.healthyTimeout", "%v", err)
		}
		if a.Interval < minCloudAPIInterval {
			bad("cells.healthcheck.cloudAPI.interval", "%d is less than %d (seconds)", a.Interval, minCloudAPIInterval)
		}
	}
}

func checkHealthyTimeout(seconds int32) error {
	if seconds != 0 && seconds < minHealthyTimeout {
		return fmt.Errorf("%d is less than %d (seconds), and not 0, which means never", seconds, minHealthyTimeout)
	}
	return nil
}

// ParseHealthyTimeout reads a healthyTimeout as pods give it: whole seconds, 0
// for never.
func ParseHealthyTimeout(value string) (int32, error) {
	seconds, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of seconds", value)
	}
	return int32(seconds), checkHealthyTimeout(int32(seconds))
}

// HealthyTimeout is for how long a cell may be unhealthy that says nothing about
// it; 0 for ever.
func (h Healthcheck) HealthyTimeout() time.Duration {
	if h.CloudAPI != nil {
		return time.Duration(*h.CloudAPI.HealthyTimeout) * time.Second
	}
	return time.Duration(*h.Status.HealthyTimeout) * time.Second
}
