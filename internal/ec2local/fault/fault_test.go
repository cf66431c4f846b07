package fault

import "testing"

func TestLaunch(t *testing.T) {
	launch := Launch{InstanceType: "t3.small", Zone: "us-west-2a", CapacityType: "spot"}
	cases := map[string]struct {
		reason string
		rules  []Rule
		want   []string // codes of launches one after the other
	}{
		"none":      {"nothing goes wrong", nil, []string{""}},
		"all":       {"an empty rule matches everything", []Rule{{}}, []string{"InsufficientInstanceCapacity", "InsufficientInstanceCapacity"}},
		"pattern":   {"types of a family", []Rule{{InstanceType: "t3.*"}}, []string{"InsufficientInstanceCapacity"}},
		"otherwise": {"another family", []Rule{{InstanceType: "m5.*"}}, []string{""}},
		"zone":      {"another zone", []Rule{{Zone: "us-west-2b"}}, []string{""}},
		"capacity":  {"another market", []Rule{{CapacityType: "on-demand"}}, []string{""}},
		"code":      {"another code", []Rule{{Code: "Unsupported"}}, []string{"Unsupported"}},
		"count":     {"a rule is used up", []Rule{{Count: 2}}, []string{"InsufficientInstanceCapacity", "InsufficientInstanceCapacity", ""}},
		"order":     {"the first that matches", []Rule{{Zone: "*b", Code: "B"}, {Code: "A", Count: 1}, {Code: "C"}}, []string{"A", "C"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var s Script
			if err := s.Set(tc.rules); err != nil {
				t.Fatal(err)
			}
			for n, want := range tc.want {
				if got, _ := s.Launch(launch); got.Code != want {
					t.Errorf("%s: launch %d: got %q, want %q", tc.reason, n, got.Code, want)
				}
			}
		})
	}
}

func TestSetRefuses(t *testing.T) {
	for name, rule := range map[string]Rule{
		"pattern": {InstanceType: "["}, "capacity type": {CapacityType: "reserved"}, "count": {Count: -1},
	} {
		var s Script
		if err := s.Set([]Rule{rule}); err == nil {
			t.Errorf("%s: %+v was taken", name, rule)
		}
	}
}
