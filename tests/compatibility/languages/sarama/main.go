// Sends records and reads them back with Sarama, logged in as the environment says; the last line says how it went.
package main

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"hash"
	"os"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

const count = 100

type exchange struct {
	make func() hash.Hash
	*scram.ClientConversation
}

func (e *exchange) Begin(user, password, authzID string) error {
	client, err := scram.HashGeneratorFcn(e.make).NewClient(user, password, authzID)
	if err == nil {
		e.ClientConversation = client.NewConversation()
	}
	return err
}

func (e *exchange) Step(challenge string) (string, error) { return e.ClientConversation.Step(challenge) }
func (e *exchange) Done() bool                            { return e.ClientConversation.Done() }

type token string

func (t token) Token() (*sarama.AccessToken, error) {
	return &sarama.AccessToken{Token: string(t)}, nil
}

func fail(err error) {
	fmt.Printf("FAILED %v\n", err)
	os.Exit(1)
}

func main() {
	config := sarama.NewConfig()
	config.Version = sarama.V4_0_0_0
	config.Producer.Return.Successes = true
	config.Metadata.Retry.Max = 5
	if file := os.Getenv("LOGIN_CA"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			fail(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		config.Net.TLS.Enable = true
		config.Net.TLS.Config = &tls.Config{RootCAs: pool}
	}
	if mechanism := os.Getenv("LOGIN_MECHANISM"); mechanism != "" {
		config.Net.SASL.Enable = true
		config.Net.SASL.Mechanism = sarama.SASLMechanism(mechanism)
		config.Net.SASL.User, config.Net.SASL.Password = os.Getenv("LOGIN_USER"), os.Getenv("LOGIN_PASSWORD")
		switch mechanism {
		case "SCRAM-SHA-256":
			config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &exchange{make: sha256.New} }
		case "SCRAM-SHA-512":
			config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &exchange{make: sha512.New} }
		case "OAUTHBEARER":
			config.Net.SASL.TokenProvider = token(os.Getenv("LOGIN_PASSWORD"))
		}
	}
	topic := os.Getenv("LOGIN_TOPIC")
	client, err := sarama.NewClient([]string{os.Getenv("LOGIN_BROKER")}, config)
	if err != nil {
		fail(err)
	}
	defer client.Close()
	producer, err := sarama.NewSyncProducerFromClient(client)
	if err != nil {
		fail(err)
	}
	for number := 0; number < count; number++ {
		message := &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(number))}
		if _, _, err := producer.SendMessage(message); err != nil {
			fail(err)
		}
	}
	consumer, err := sarama.NewConsumerFromClient(client)
	if err != nil {
		fail(err)
	}
	partition, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	if err != nil {
		fail(err)
	}
	for read := 0; read < count; read++ {
		select {
		case message := <-partition.Messages():
			if string(message.Value) != fmt.Sprint(read) {
				fail(fmt.Errorf("record %d is %s", read, message.Value))
			}
		case <-time.After(30 * time.Second):
			fail(fmt.Errorf("record %d does not come", read))
		}
	}
	fmt.Println("SERVED", count)
}
