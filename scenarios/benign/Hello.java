import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A harmless task: says hello and reads one of the system's files. LAVA must find nothing in it. */
public final class Hello {
    private Hello() {}

    public static void main(String[] arguments) throws IOException {
        System.out.println("Hello from Java " + System.getProperty("java.version"));
        try (var lines = Files.lines(Path.of("/etc/os-release"))) {
            lines.filter(line -> line.startsWith("PRETTY_NAME=")).forEach(System.out::println);
        }
    }
}
