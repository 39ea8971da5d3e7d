import java.io.*;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads the committed records of a topic and prints for each its partition,
 * offset and a hash of time, key, value and headers; and after each poll the
 * positions that it would commit: "@ partition position".
 *
 * Arguments: bootstrap topic
 */
public class Read {
    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("isolation.level", "read_committed");
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "none");
        p.put("max.poll.records", 1000);
        try (KafkaConsumer<byte[], byte[]> c = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
             PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 20))) {
            List<TopicPartition> all = new ArrayList<>();
            c.partitionsFor(args[1]).forEach(i -> all.add(new TopicPartition(i.topic(), i.partition())));
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all), told = new HashMap<>();
            MessageDigest sha = MessageDigest.getInstance("SHA-256");
            for (boolean more = true; more; ) {
                for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofMillis(200))) {
                    out.println(r.partition() + " " + r.offset() + " " + hash(sha, r));
                }
                more = false;
                for (TopicPartition tp : all) {
                    long at = c.position(tp);
                    if (!Objects.equals(told.put(tp, at), at)) out.println("@ " + tp.partition() + " " + at);
                    more |= at < ends.get(tp);
                }
            }
        }
    }

    static String hash(MessageDigest sha, ConsumerRecord<byte[], byte[]> r) {
        sha.update(ByteBuffer.allocate(8).putLong(r.timestamp()).array());
        field(sha, r.key());
        field(sha, r.value());
        for (Header h : r.headers()) {
            field(sha, h.key().getBytes(StandardCharsets.UTF_8));
            field(sha, h.value());
        }
        return HexFormat.of().formatHex(sha.digest(), 0, 12);
    }

    static void field(MessageDigest sha, byte[] b) {
        sha.update(ByteBuffer.allocate(4).putInt(b == null ? -1 : b.length).array());
        if (b != null) sha.update(b);
    }
}
