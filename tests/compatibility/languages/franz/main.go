// Sends records and reads them back with franz-go, logged in as the environment says; the last line says how it went.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const count = 100

func fail(err error) {
	fmt.Printf("FAILED %v\n", err)
	os.Exit(1)
}

func main() {
	user, password := os.Getenv("LOGIN_USER"), os.Getenv("LOGIN_PASSWORD")
	topic := os.Getenv("LOGIN_TOPIC")
	options := []kgo.Opt{
		kgo.SeedBrokers(os.Getenv("LOGIN_BROKER")),
		kgo.DefaultProduceTopic(topic),
		kgo.ConsumeTopics(topic),
		kgo.ConsumerGroup(topic + "-group"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AllowAutoTopicCreation(),
		kgo.RecordRetries(20),
		kgo.RetryTimeout(10 * time.Second),
	}
	if file := os.Getenv("LOGIN_CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			fail(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		options = append(options, kgo.DialTLSConfig(&tls.Config{RootCAs: pool}))
	}
	switch os.Getenv("LOGIN_MECHANISM") {
	case "PLAIN":
		options = append(options, kgo.SASL(plain.Auth{User: user, Pass: password}.AsMechanism()))
	case "SCRAM-SHA-256":
		options = append(options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha256Mechanism()))
	case "SCRAM-SHA-512":
		options = append(options, kgo.SASL(scram.Auth{User: user, Pass: password}.AsSha512Mechanism()))
	case "OAUTHBEARER":
		options = append(options, kgo.SASL(oauth.Auth{Token: password}.AsMechanism()))
	}
	client, err := kgo.NewClient(options...)
	if err != nil {
		fail(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	if err := client.Ping(ctx); err != nil {
		fail(err)
	}
	for number := 0; number < count; number++ {
		record := &kgo.Record{Value: []byte(fmt.Sprint(number))}
		if err := client.ProduceSync(ctx, record).FirstErr(); err != nil {
			fail(err)
		}
	}
	read := 0
	for read < count {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			fail(ctx.Err())
		}
		fetches.EachRecord(func(record *kgo.Record) {
			if string(record.Value) != fmt.Sprint(read) {
				fail(fmt.Errorf("record %d is %s", read, record.Value))
			}
			read++
		})
	}
	if err := client.CommitUncommittedOffsets(ctx); err != nil {
		fail(err)
	}
	fmt.Println("SERVED", read)
}
