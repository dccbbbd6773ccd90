package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sentinel-shim/sentinel-shim/e2e/kube"
)

// Services that the manifests use but do not contain. Their manifests are in testdata.

// bringUp applies a file of testdata. It waits until its pod is ready and a shell script succeeds in a container: the
// name of a Service resolves only some time after its pod is ready.
func bringUp(t *testing.T, ns *kube.Namespace, name, pod, container, script string) {
	t.Helper()
	ns.Apply(t, "testdata/"+name+".yaml")
	ns.Until(t, patience, "pod "+name+" to be ready", func(s *kube.State) bool {
		return slices.ContainsFunc(s.Pods(name), func(pod *corev1.Pod) bool {
			return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
				return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
			})
		})
	})
	ns.Exec(t, pod, container, "sh", "-c", "until "+script+"; do sleep 0.2; done")
}

// statsd brings up the server that the metrics forwarder sends to.
func statsd(t *testing.T, ns *kube.Namespace) []kube.Edit {
	t.Helper()
	bringUp(t, ns, "statsd", "statsd", "shell", "wget -q -O /dev/null http://statsd:9102/")
	return nil
}

// shopDB brings up the PostgreSQL server that the manifests call shop-db.
func shopDB(t *testing.T, ns *kube.Namespace) []kube.Edit {
	t.Helper()
	bringUp(t, ns, "shop-db", "shop-db", "postgres", "pg_isready -h shop-db")
	return nil
}

// cloudSQL brings up what the Cloud SQL Auth Proxy sees of a Cloud SQL instance, and returns an edit that makes the
// proxy use it. One certificate is that of the authority and of the server, and also that of the client, which the
// server does not ask for.
func cloudSQL(t *testing.T, ns *kube.Namespace) []kube.Edit {
	t.Helper()
	shopDB(t, ns)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "my-project:shop"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	type object = map[string]any
	settings := object{
		"backendType": "SECOND_GEN", "databaseVersion": "POSTGRES_15", "region": "europe-west1",
		// HAProxy replaces this by the address at which it got the request.
		"ipAddresses":  []object{{"type": "PRIMARY", "ipAddress": "%[dst]"}},
		"serverCaCert": object{"cert": certificate},
	}
	privateKey := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	ns.ApplyText(t, asJSON(t, corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Name: "cloud-sql"},
		StringData: map[string]string{
			"server.pem":                 certificate + privateKey,
			"connectSettings.json":       asJSON(t, settings),
			"generateEphemeralCert.json": asJSON(t, object{"ephemeralCert": object{"cert": certificate}}),
		},
	}))
	bringUp(t, ns, "cloud-sql", "shop-db", "postgres", "getent hosts cloud-sql")
	return []kube.Edit{kube.EditContainer("schema-migration", "cloud-sql-proxy", func(c *corev1.Container) {
		c.Env = append(c.Env,
			corev1.EnvVar{Name: "CSQL_PROXY_SQLADMIN_API_ENDPOINT", Value: "http://cloud-sql:8080/"},
			corev1.EnvVar{Name: "CSQL_PROXY_TOKEN", Value: "any"})
	})}
}
