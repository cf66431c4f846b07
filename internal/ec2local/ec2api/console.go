package ec2api

import (
	"encoding/base64"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type getConsoleOutputRequest struct {
	dryRun
	InstanceID string `query:"InstanceId,required"`
	Latest     bool   // always is
}

type getConsoleOutputAnswer struct {
	query.Answer
	InstanceID string     `xml:"instanceId"`
	Time       query.Time `xml:"timestamp"`
	Output     string     `xml:"output"`
}

func (a *API) getConsoleOutput(in *getConsoleOutputRequest) (*getConsoleOutputAnswer, error) {
	output, err := a.cloud.Console(in.InstanceID)
	if err != nil {
		return nil, err
	}
	return &getConsoleOutputAnswer{
		InstanceID: in.InstanceID, Time: query.Time(a.cloud.Now()), Output: base64.StdEncoding.EncodeToString(output),
	}, nil
}
