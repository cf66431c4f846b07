package tunnel

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/pki"
)

// serveEnrolment answers Kip on one connection before, and to say no also
// after, the agent has its certificate. It returns when the connection ended.
func (s *Server) serveEnrolment(conn *tls.Conn) {
	session := conn.ConnectionState()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+enrolment.OfferPath, func(w http.ResponseWriter, _ *http.Request) {
		s.getOffer(w, session)
	})
	mux.HandleFunc("POST "+enrolment.CertificatePath, func(w http.ResponseWriter, r *http.Request) {
		if s.isEnrolled() {
			s.refuseEnrolment(w)
			return
		}
		s.postCertificate(w, r)
	})
	server := &http.Server{
		Handler:      mux,
		ReadTimeout:  exchangeTimeout,
		WriteTimeout: exchangeTimeout,
		IdleTimeout:  exchangeTimeout,
	}
	// The listener hides that this is TLS: the http.Server would look for the
	// protocol in its own table.
	_ = server.Serve(newSingleListener(conn))
}

func (s *Server) isEnrolled() bool {
	select {
	case <-s.enrolled:
		return true
	default:
		return false
	}
}

func (s *Server) getOffer(w http.ResponseWriter, session tls.ConnectionState) {
	s.mu.Lock()
	token := s.token
	var offer enrolment.Offer
	var err error
	if token != nil {
		var publicKey []byte
		if publicKey, err = x509.MarshalPKIXPublicKey(s.key.Public()); err == nil {
			offer, err = enrolment.NewOffer(token, s.config.Cell, publicKey, session, s.config.Version)
		}
	}
	s.mu.Unlock()
	switch {
	case token == nil:
		s.refuseEnrolment(w)
	case err != nil:
		s.config.Logger.Error("enrolling", "cell", s.config.Cell, "err", err)
		http.Error(w, "the agent cannot make a proof", http.StatusInternalServerError)
	default:
		writeJSON(w, http.StatusOK, offer)
	}
}

// refuseEnrolment answers whoever tries to enrol an enrolled agent.
func (s *Server) refuseEnrolment(w http.ResponseWriter) {
	keySHA256, err := pki.KeySHA256(s.key.Public())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.config.Logger.Warn("refused a second enrolment", "cell", s.config.Cell)
	writeJSON(w, http.StatusConflict, enrolment.AlreadyEnrolled{KeySHA256: keySHA256})
}

// postCertificate takes the certificate that ends enrolment, or a newer one.
// The token dies here.
func (s *Server) postCertificate(w http.ResponseWriter, r *http.Request) {
	var grant enrolment.Grant
	if err := json.NewDecoder(io.LimitReader(r.Body, enrolment.MaxMessageBytes)).Decode(&grant); err != nil {
		http.Error(w, "reading the grant: "+err.Error(), http.StatusBadRequest)
		return
	}
	text := []byte(grant.CertificatePEM)
	var clients *x509.CertPool
	if grant.CACertificates != "" {
		var err error
		if clients, err = poolOf([]byte(grant.CACertificates)); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	certificate, err := s.parseCertificate(text, clients)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if err := s.install(certificate, text, clients, []byte(grant.CACertificates)); err != nil {
		s.config.Logger.Error("keeping the new certificate", "cell", s.config.Cell, "err", err)
		http.Error(w, "the agent cannot keep its certificate", http.StatusInternalServerError)
		return
	}
	s.config.Logger.Info("has a certificate", "cell", s.config.Cell, "until", certificate.Leaf.NotAfter.Format(time.RFC3339))
	if clients == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeJSON(w, http.StatusOK, enrolment.Taken{CACertificates: true})
}

// install keeps the certificate and, if there are any, whom to take for Kip, and
// goes by them from the next connection on.
func (s *Server) install(certificate *tls.Certificate, text []byte, clients *x509.CertPool, authorities []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if clients == nil {
		clients, authorities = s.clients, s.authorities
	}
	if err := s.config.Store.Save(Identity{Key: s.key, CertificatePEM: text, CACertificates: authorities}); err != nil {
		return err
	}
	s.certificate, s.clients, s.authorities = certificate, clients, authorities
	if s.token != nil {
		clear(s.token)
		s.token = nil
		close(s.enrolled)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data)
}
