// Package pki makes the keys and certificates of a cluster.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// lifetime of everything: longer than a cluster for tests lives.
const lifetime = 365 * 24 * time.Hour

// Authority issues the certificates of one cluster. Files are written to its folder as NAME.crt and
// NAME.key; its own are ca.crt and ca.key.
type Authority struct {
	folder      string
	certificate *x509.Certificate
	key         crypto.Signer
}

// Identity is what a certificate says of its owner.
type Identity struct {
	// Name and Group are Kubernetes' user and group.
	Name  string
	Group string
	// DNS and IPs are what a server is reached by.
	DNS []string
	IPs []net.IP
}

// New makes a self-signed authority.
func New(folder string) (*Authority, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := template(pkix.Name{CommonName: "weir-cluster"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	authority := &Authority{folder: folder, certificate: certificate, key: key}
	return authority, authority.write("ca", der, key)
}

// Issue writes NAME.crt and NAME.key for a client or server.
func (a *Authority) Issue(name string, identity Identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	subject := pkix.Name{CommonName: identity.Name}
	if identity.Group != "" {
		subject.Organization = []string{identity.Group}
	}
	template := template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.DNSNames = identity.DNS
	template.IPAddresses = identity.IPs
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return a.write(name, der, key)
}

// TokenKey writes NAME.key, and NAME.pub: what service account tokens are signed with. RSA, because
// that is what clusters have, and so what readers of those tokens have to know.
func (a *Authority) TokenKey(name string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := a.writePEM(name+".pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

// Path of a file in the authority's folder.
func (a *Authority) Path(file string) string { return filepath.Join(a.folder, file) }

func template(subject pkix.Name) *x509.Certificate {
	// Clocks of containers are the host's; the minute is for files made in the same second.
	now := time.Now().Add(-time.Minute)
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{Subject: subject, SerialNumber: serial, NotBefore: now, NotAfter: now.Add(lifetime)}
}

func (a *Authority) write(name string, certificate []byte, key crypto.Signer) error {
	if err := a.writePEM(name+".crt", "CERTIFICATE", certificate); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

func (a *Authority) writeKey(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return a.writePEM(name+".key", "PRIVATE KEY", der)
}

func (a *Authority) writePEM(file, kind string, der []byte) error {
	return os.WriteFile(a.Path(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
