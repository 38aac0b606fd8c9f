import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The copier on Kafka's own Java clients: records are copied in transactions, and nothing is done to
 * them. The lanes, the rule for commits, the compression and the batches of the other systems.
 * Tuned: large fetches, no check of the checksums (librdkafka makes none either), batches that
 * linger until they are full or the commit flushes them.
 *
 * <p>Usage: BOOTSTRAP GROUP RAW OUT LANES PARTITIONS
 */
final class Copier {
    private static final int RECORDS = 5_000;
    private static final long INTERVAL_NANOS = 100_000_000;

    public static void main(String[] args) throws InterruptedException, ExecutionException {
        int lanes = Integer.parseInt(args[4]);
        int partitions = Integer.parseInt(args[5]);
        ExecutorService threads = Executors.newFixedThreadPool(lanes);
        List<Future<?>> running = new ArrayList<>();
        for (int lane = 0; lane < lanes; lane++) {
            List<TopicPartition> mine = new ArrayList<>();
            for (int partition = lane; partition < partitions; partition += lanes) {
                mine.add(new TopicPartition(args[2], partition));
            }
            String id = "java-" + args[1] + "-" + lane;
            running.add(threads.submit(() -> copy(args[0], args[1], id, args[3], mine)));
        }
        for (Future<?> lane : running) {
            lane.get();
        }
    }

    private static void copy(
            String bootstrap, String group, String id, String out, List<TopicPartition> mine) {
        Map<String, Object> reading = new HashMap<>();
        reading.put("bootstrap.servers", bootstrap);
        reading.put("group.id", group);
        reading.put("enable.auto.commit", false);
        reading.put("isolation.level", "read_committed");
        reading.put("max.poll.records", RECORDS);
        reading.put("max.partition.fetch.bytes", 8 << 20);
        reading.put("fetch.max.bytes", 64 << 20);
        reading.put("receive.buffer.bytes", 1 << 20);
        reading.put("check.crcs", false);
        Map<String, Object> writing = new HashMap<>();
        writing.put("bootstrap.servers", bootstrap);
        writing.put("transactional.id", id);
        writing.put("compression.type", "lz4");
        writing.put("batch.size", 1_000_000);
        writing.put("linger.ms", 1_000);
        writing.put("buffer.memory", 128L << 20);
        writing.put("max.request.size", 4 << 20);
        writing.put("send.buffer.bytes", 1 << 20);
        try (KafkaConsumer<byte[], byte[]> consumer =
                        new KafkaConsumer<>(
                                reading, new ByteArrayDeserializer(), new ByteArrayDeserializer());
                KafkaProducer<byte[], byte[]> producer =
                        new KafkaProducer<>(
                                writing, new ByteArraySerializer(), new ByteArraySerializer())) {
            producer.initTransactions();
            consumer.assign(mine);
            consumer.seekToBeginning(mine);
            ConsumerGroupMetadata metadata = consumer.groupMetadata();
            Map<TopicPartition, OffsetAndMetadata> next = new HashMap<>();
            long begun = 0;
            int records = 0;
            while (true) {
                ConsumerRecords<byte[], byte[]> batch = consumer.poll(Duration.ofMillis(10));
                for (TopicPartition partition : batch.partitions()) {
                    List<ConsumerRecord<byte[], byte[]>> list = batch.records(partition);
                    if (records == 0) {
                        producer.beginTransaction();
                        begun = System.nanoTime();
                    }
                    for (ConsumerRecord<byte[], byte[]> record : list) {
                        producer.send(
                                new ProducerRecord<>(
                                        out,
                                        record.partition(),
                                        record.timestamp(),
                                        record.key(),
                                        record.value(),
                                        record.headers()));
                    }
                    records += list.size();
                    long last = list.get(list.size() - 1).offset();
                    next.put(partition, new OffsetAndMetadata(last + 1));
                }
                boolean isDue =
                        records >= RECORDS
                                || batch.isEmpty()
                                || System.nanoTime() - begun >= INTERVAL_NANOS;
                if (records > 0 && isDue) {
                    producer.sendOffsetsToTransaction(next, metadata);
                    producer.commitTransaction();
                    next.clear();
                    records = 0;
                }
            }
        }
    }
}
