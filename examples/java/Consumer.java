import desk.v1.EventServiceGrpc;
import desk.v1.SessionRecord;
import desk.v1.SubscribeRequest;
import desk.v1.SubscribeResponse;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Iterator;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

/**
 * Prints the records of the feed and stores its position in a file.
 *
 * <pre>java Consumer 127.0.0.1:50051 position.txt</pre>
 *
 * <p>Stop it and start it again: it resumes after the last message that it handled.
 */
public final class Consumer {
  /** The service promises a message every 5 s, and every 20 s while it has thousands of streams. */
  private static final long SILENCE_SECONDS = 30;

  private final EventServiceGrpc.EventServiceBlockingStub events;
  private final Path file;
  private final ScheduledExecutorService timer =
      Executors.newSingleThreadScheduledExecutor(
          task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
          });

  // Where to resume; stored in the file.
  private String journalId = "";
  private long revision = 0;

  // The last record handled by this process.
  private long lastRevision = 0;
  private int lastOrdinal = 0;
  private int attempt = 0;

  Consumer(ManagedChannel channel, Path file) throws IOException {
    this.events = EventServiceGrpc.newBlockingStub(channel);
    this.file = file;
    if (Files.exists(file)) {
      String[] words = Files.readString(file).strip().split(" ");
      journalId = words[0];
      revision = Long.parseLong(words[1]);
    }
  }

  private void save() throws IOException {
    Path draft = file.resolveSibling(file.getFileName() + ".new");
    Files.writeString(draft, journalId + " " + revision);
    Files.move(draft, file, StandardCopyOption.ATOMIC_MOVE);
  }

  private void handle(SubscribeResponse response) throws IOException {
    for (SessionRecord record : response.getRecords().getRecordsList()) {
      long number = record.getRevision();
      // A revision that came in parts is repeated by a resumed stream.
      if (number < lastRevision || number == lastRevision && record.getOrdinal() <= lastOrdinal) {
        continue;
      }
      System.out.println(
          number
              + " " + record.getEvent().getSessionId()
              + " " + record.getEvent().getTypeName()
              + " " + record.getSessionState());
      lastRevision = number;
      lastOrdinal = record.getOrdinal();
    }
    // After the effects, and of every message: progress without records counts, too.
    journalId = response.getHeader().getJournalId();
    revision = response.getHeader().getRevision();
    save();
  }

  /** Reads one stream until it breaks. */
  private void follow() throws IOException {
    SubscribeRequest request =
        SubscribeRequest.newBuilder().setAfterRevision(revision).setJournalId(journalId).build();
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      Context previous = context.attach();
      try {
        Iterator<SubscribeResponse> responses = events.subscribe(request);
        while (next(responses, context)) {
          attempt = 0;
          handle(responses.next());
        }
      } finally {
        context.detach(previous);
      }
    }
  }

  /** Waits for a message; cancels the call if none comes for too long. */
  private boolean next(Iterator<?> responses, Context.CancellableContext context) {
    Future<?> silence =
        timer.schedule(() -> context.cancel(null), SILENCE_SECONDS, TimeUnit.SECONDS);
    try {
      return responses.hasNext();
    } finally {
      silence.cancel(false);
    }
  }

  private void run() throws IOException, InterruptedException {
    while (true) {
      String reason = "the stream ended";
      try {
        follow();
      } catch (StatusRuntimeException error) {
        switch (error.getStatus().getCode()) {
          case FAILED_PRECONDITION: // the service has another journal: start over
          case OUT_OF_RANGE: // the records after this position are no longer kept: start over
          case INVALID_ARGUMENT:
          case UNAUTHENTICATED:
          case PERMISSION_DENIED:
            throw error;
          default:
            reason = error.getMessage();
        }
      }
      long longest = Math.min(10_000, 200L << Math.min(attempt++, 6));
      long delay = longest / 2 + ThreadLocalRandom.current().nextLong(longest / 2);
      System.err.printf("connection lost (%s), trying again in %d ms%n", reason, delay);
      Thread.sleep(delay);
    }
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    new Consumer(channel, Path.of(arguments[1])).run();
  }
}
