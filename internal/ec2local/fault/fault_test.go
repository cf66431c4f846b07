package fault

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNext(t *testing.T) {
	const none = "InsufficientInstanceCapacity"
	launch := Call{Action: RunInstances, InstanceType: "t3.small", Zone: "us-west-2a", CapacityType: "spot"}
	describe, terminate := Call{Action: "DescribeInstances"}, Call{Action: "TerminateInstances"}
	cases := map[string]struct {
		reason string
		rules  []Rule
		call   Call
		want   []string // codes of calls one after the other
	}{
		"none":           {"nothing goes wrong", nil, launch, []string{""}},
		"all":            {"an empty rule matches every launch", []Rule{{}}, launch, []string{none, none}},
		"launches only":  {"a rule without an action is about launches", []Rule{{}}, describe, []string{""}},
		"pattern":        {"types of a family", []Rule{{InstanceType: "t3.*"}}, launch, []string{none}},
		"otherwise":      {"another family", []Rule{{InstanceType: "m5.*"}}, launch, []string{""}},
		"zone":           {"another zone", []Rule{{Zone: "us-west-2b"}}, launch, []string{""}},
		"capacity":       {"another market", []Rule{{CapacityType: "on-demand"}}, launch, []string{""}},
		"code":           {"another code", []Rule{{Code: "Unsupported"}}, launch, []string{"Unsupported"}},
		"count":          {"a rule is used up", []Rule{{Count: 2}}, launch, []string{none, none, ""}},
		"order":          {"the first that matches", []Rule{{Zone: "*b", Code: "B"}, {Code: "A", Count: 1}, {Code: "C"}}, launch, []string{"A", "C"}},
		"action":         {"a rule for another action", []Rule{{Action: "TerminateInstances", Code: "A"}}, terminate, []string{"A"}},
		"actions":        {"a pattern of actions", []Rule{{Action: "Describe*"}}, describe, []string{"InternalError"}},
		"not the action": {"a pattern that others do not match", []Rule{{Action: "Describe*"}}, terminate, []string{""}},
		"any action":     {"what is said of a launch restricts to launches", []Rule{{Action: "*", Zone: "us-west-2a"}}, describe, []string{""}},
		"slow":           {"a delay alone is no error", []Rule{{Delay: Duration(time.Second)}}, launch, []string{""}},
		"lost":           {"nor is a lost answer", []Rule{{Lose: LoseAfter}}, launch, []string{""}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s Script
			if err := s.Set(tc.rules); err != nil {
				t.Fatal(err)
			}
			for n, want := range tc.want {
				if got, _ := s.Next(tc.call); got.Code != want {
					t.Errorf("%s: call %d: got %q, want %q", tc.reason, n, got.Code, want)
				}
			}
		})
	}
}

// TestRate: about the share that was asked for, and the same ones each time.
func TestRate(t *testing.T) {
	run := func(seed uint64) (hits []bool, total int) {
		var s Script
		if err := s.Set([]Rule{{Rate: 0.3, Seed: seed}}); err != nil {
			t.Fatal(err)
		}
		for range 1000 {
			_, hit := s.Next(Call{Action: RunInstances})
			if hits = append(hits, hit); hit {
				total++
			}
		}
		return hits, total
	}
	first, total := run(1)
	again, _ := run(1)
	other, _ := run(2)
	if total < 250 || total > 350 {
		t.Errorf("%d of 1000 were concerned, want about 300", total)
	}
	if !cmp.Equal(first, again) || cmp.Equal(first, other) {
		t.Error("the seed must decide who is concerned")
	}
}

func TestSetRefuses(t *testing.T) {
	for name, rule := range map[string]Rule{
		"pattern": {InstanceType: "["}, "action": {Action: "["}, "capacity type": {CapacityType: "reserved"}, "count": {Count: -1},
		"rate": {Rate: 1.5}, "lose": {Lose: "sometimes"}, "no answer and a code": {Lose: LoseBefore, Code: "A"}, "delay": {Delay: -1},
		"a zone of what is no launch": {Action: "Describe*", Zone: "us-west-2a"},
	} {
		var s Script
		if err := s.Set([]Rule{rule}); err == nil {
			t.Errorf("%s: %+v was taken", name, rule)
		}
	}
}

func TestJSON(t *testing.T) {
	const text = `{"action":"Describe*","rate":0.5,"seed":7,"delay":"1.5s","lose":"after"}`
	var rule Rule
	if err := json.Unmarshal([]byte(text), &rule); err != nil {
		t.Fatal(err)
	}
	if back, err := json.Marshal(rule); err != nil || string(back) != text {
		t.Errorf("got %s (%v), want %s", back, err, text)
	}
}
