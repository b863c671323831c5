package main

import (
	"crypto/tls"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// adminTLS is how the commands that speak HTTP trust a node, and what they show it. Its flags have the names of those of the
// commands that speak gRPC. Their variables have names of their own: WARREN_TLS_CERT and the like are the server's, and may be set
// where these commands run.
type adminTLS struct {
	on         bool
	ca         string
	cert, key  string
	skipVerify bool
}

func (t *adminTLS) register(f *pflag.FlagSet) {
	f.BoolVar(&t.on, "tls", os.Getenv("WARREN_ADMIN_TLS") == "true", "use TLS (https), and trust this machine's authorities; variable WARREN_ADMIN_TLS")
	f.StringVar(&t.ca, "tls-ca", os.Getenv("WARREN_ADMIN_TLS_CA"), "use TLS, and trust the authorities in this PEM file; variable WARREN_ADMIN_TLS_CA")
	f.StringVar(&t.cert, "tls-cert", os.Getenv("WARREN_ADMIN_TLS_CERT"), "use TLS, and show the certificate in this PEM file, if somebody on the way asks for one;\nvariable WARREN_ADMIN_TLS_CERT")
	f.StringVar(&t.key, "tls-key", os.Getenv("WARREN_ADMIN_TLS_KEY"), "PEM file with the key of --tls-cert; variable WARREN_ADMIN_TLS_KEY")
	f.BoolVar(&t.skipVerify, "tls-skip-verify", false, "use TLS, and believe whoever answers, who learns the password: for tests alone")
}

// url completes HOST:PORT to a URL.
func (t *adminTLS) url(server string) string {
	server = strings.TrimSuffix(server, "/")
	switch {
	case strings.Contains(server, "://"):
		return server
	case t.on || t.ca != "" || t.cert != "" || t.skipVerify:
		return "https://" + server
	}
	return "http://" + server
}

// client makes the client for all requests of a command.
func (t *adminTLS) client() (*http.Client, error) {
	secured, err := (&access{tls: t.on, ca: t.ca, cert: t.cert, key: t.key}).secure()
	if err != nil {
		return nil, err
	}
	if secured == nil {
		secured = &tls.Config{MinVersion: tls.VersionTLS12} // for a URL that says https
	}
	secured.InsecureSkipVerify = t.skipVerify
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, transport.ForceAttemptHTTP2 = secured, false
	// A large body waits until the node has said that it wants it.
	transport.ExpectContinueTimeout = adminTimeout
	return &http.Client{Transport: transport}, nil
}
