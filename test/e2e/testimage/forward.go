package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"os"
	"slices"
	"time"
)

// forward hands GETs on, as the pod's own. It does not check the server, which
// may have signed its certificate itself.
func forward(to string, until []string) error {
	token, err := os.ReadFile(account + "token")
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	ask := func(r *http.Request) (int, []byte, error) {
		req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, to+r.URL.Path, nil)
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("Authorization", "Bearer "+string(token))
		resp, err := client.Do(req)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, body, err
	}
	handler := func(w http.ResponseWriter, r *http.Request) {
		for began := time.Now(); ; time.Sleep(time.Second) {
			code, body, err := ask(r)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadGateway)
				return
			}
			lacks := func(text string) bool { return !bytes.Contains(body, []byte(text)) }
			if code == http.StatusOK && slices.ContainsFunc(until, lacks) && time.Since(began) < time.Minute {
				continue
			}
			w.WriteHeader(code)
			_, _ = w.Write(body)
			return
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr: ":10250", ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(handler),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}},
	}
	return server.ListenAndServeTLS("", "")
}
