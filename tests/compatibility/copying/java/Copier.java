import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Random;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Copies exactly once: reads `input` as a member of the group `copy`, doubles each value, writes `output` and commits
 * its offsets in the same transaction. Whoever started it may kill it at any time; it ends by itself only when it cannot go on.
 *
 * Arguments: BOOTSTRAP NAME [key=value of the consumer ...]; the name is its transactional id.
 */
public final class Copier {
    public static void main(String[] arguments) {
        Random dice = new Random();
        Properties sending = new Properties();
        sending.put("bootstrap.servers", arguments[0]);
        sending.put("transactional.id", arguments[1]);
        sending.put("transaction.timeout.ms", "10000");
        sending.put("reconnect.backoff.max.ms", "300");
        Properties reading = new Properties();
        reading.put("bootstrap.servers", arguments[0]);
        reading.put("group.id", "copy");
        reading.put("enable.auto.commit", "false");
        reading.put("auto.offset.reset", "earliest");
        reading.put("isolation.level", "read_committed");
        reading.put("max.poll.records", "30");
        reading.put("fetch.max.wait.ms", "50");
        reading.put("reconnect.backoff.max.ms", "300");
        for (int i = 2; i < arguments.length; i++) {
            String[] pair = arguments[i].split("=", 2);
            reading.put(pair[0], pair[1]);
        }
        var text = new StringSerializer();
        var fromText = new StringDeserializer();
        try (var producer = new KafkaProducer<String, String>(sending, text, text);
                var consumer = new KafkaConsumer<String, String>(reading, fromText, fromText)) {
            producer.initTransactions();
            consumer.subscribe(List.of("input"));
            System.out.println("ready");
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
                if (records.isEmpty()) continue;
                try {
                    producer.beginTransaction();
                    Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                    for (ConsumerRecord<String, String> record : records) {
                        String doubled = Long.toString(2 * Long.parseLong(record.value()));
                        producer.send(new ProducerRecord<>("output", record.partition(), null, doubled));
                        var place = new TopicPartition(record.topic(), record.partition());
                        offsets.put(place, new OffsetAndMetadata(record.offset() + 1));
                    }
                    producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                    if (dice.nextInt(10) == 0) {
                        producer.abortTransaction();
                        goBack(consumer);
                    } else {
                        producer.commitTransaction();
                    }
                } catch (ProducerFencedException | OutOfOrderSequenceException error) {
                    throw error;
                } catch (KafkaException error) {
                    System.out.println("aborts: " + error);
                    producer.abortTransaction();
                    goBack(consumer);
                }
            }
        } catch (Exception error) {
            error.printStackTrace(System.out);
            System.exit(1);
        }
    }

    /** What was read since the last commit is to be read again. */
    private static void goBack(KafkaConsumer<String, String> consumer) {
        var committed = consumer.committed(consumer.assignment());
        committed.forEach((place, offset) -> consumer.seek(place, offset == null ? 0 : offset.offset()));
    }
}
