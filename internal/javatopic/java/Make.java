import java.nio.charset.StandardCharsets;
import java.util.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Writes a topic that has everything: all compressions, batches of 1 to many
 * records, plain producers and transactions that are committed or aborted while
 * others write between, keys that come again, tombstones, headers, odd times.
 *
 * Arguments: bootstrap topic partitions records largestBatch seed
 */
public class Make {
    static final String[] CODECS = {"none", "gzip", "snappy", "lz4", "zstd"};
    static final long TIME = 1_700_000_000_000L;

    static final class Writer {
        final KafkaProducer<byte[], byte[]> producer;
        final boolean transactional;
        boolean open;
        int inTransaction;

        Writer(String bootstrap, String topic, String codec, boolean transactional) {
            Properties p = new Properties();
            p.put("bootstrap.servers", bootstrap);
            p.put("compression.type", codec);
            p.put("batch.size", 4 << 20); // what is flushed is one batch
            p.put("linger.ms", 60_000);
            p.put("max.request.size", 8 << 20);
            p.put("buffer.memory", 16 << 20);
            if (transactional) p.put("transactional.id", topic + "-" + codec);
            this.transactional = transactional;
            producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer());
            if (transactional) producer.initTransactions();
        }
    }

    public static void main(String[] args) throws Exception {
        String bootstrap = args[0], topic = args[1];
        int partitions = Integer.parseInt(args[2]), records = Integer.parseInt(args[3]), largest = Integer.parseInt(args[4]);
        Random random = new Random(Long.parseLong(args[5]));
        List<Writer> writers = new ArrayList<>();
        for (String codec : CODECS) {
            writers.add(new Writer(bootstrap, topic, codec, false));
            writers.add(new Writer(bootstrap, topic, codec, true));
        }
        long committed = 0, aborted = 0, batches = 0, transactions = 0;
        int written = 0;
        while (written < records) {
            Writer w = writers.get(random.nextInt(writers.size()));
            if (w.transactional && !w.open) {
                w.producer.beginTransaction();
                w.open = true;
                w.inTransaction = 0;
            }
            int size = size(random, largest), times = size == 1 ? 10 : 1;
            for (int i = 0; i < times && written < records; i++) {
                int n = Math.min(size, records - written), partition = random.nextInt(partitions);
                for (int j = 0; j < n; j++) w.producer.send(record(random, topic, partition, written + j, records));
                w.producer.flush();
                written += n;
                batches++;
                w.inTransaction += n;
                if (!w.transactional) committed += n;
            }
            if (w.transactional && random.nextInt(5) < 2) {
                boolean commit = random.nextInt(5) < 3;
                end(w, commit);
                transactions++;
                if (commit) committed += w.inTransaction;
                else aborted += w.inTransaction;
            }
        }
        for (Writer w : writers) {
            if (w.open) {
                end(w, true);
                transactions++;
                committed += w.inTransaction;
            }
            w.producer.close();
        }
        System.out.printf("{\"written\": %d, \"committed\": %d, \"aborted\": %d, \"batches\": %d, \"transactions\": %d}%n",
            written, committed, aborted, batches, transactions);
    }

    static void end(Writer w, boolean commit) {
        if (commit) w.producer.commitTransaction();
        else w.producer.abortTransaction();
        w.open = false;
    }

    /** Sizes from 1 to the largest, each order of magnitude often enough. */
    static int size(Random random, int largest) {
        int[] sizes = {1, 1 + random.nextInt(10), 1 + random.nextInt(100), 1 + random.nextInt(1000), 1 + random.nextInt(largest), largest};
        return Math.min(sizes[random.nextInt(sizes.length)], largest);
    }

    static ProducerRecord<byte[], byte[]> record(Random random, String topic, int partition, int i, int records) {
        // Three in ten keys come again and again: what the cleaner lives on.
        String key = random.nextInt(10) < 3 ? "again-" + random.nextInt(Math.max(1, records / 50)) : "once-" + i;
        byte[] value = null;
        if (random.nextInt(20) > 0) {
            value = new byte[random.nextInt(60)];
            random.nextBytes(value);
        }
        ProducerRecord<byte[], byte[]> r = new ProducerRecord<>(topic, partition, TIME + i + random.nextInt(5000), key.getBytes(StandardCharsets.UTF_8), value);
        if (random.nextInt(5) == 0) {
            for (int h = random.nextInt(4); h >= 0; h--) {
                r.headers().add(new RecordHeader("h" + random.nextInt(2), random.nextInt(3) == 0 ? null : Integer.toString(i).getBytes(StandardCharsets.UTF_8)));
            }
        }
        return r;
    }
}
