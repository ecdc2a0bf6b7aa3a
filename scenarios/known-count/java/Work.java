import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;

/** What Java programs do with files, processes and sockets; part of the ground truth. */
public final class Work {
    private Work() {
    }

    public static void main(String[] arguments) throws Exception {
        Path place = Files.createTempDirectory("work");
        Path text = Files.writeString(place.resolve("text"), "text");
        Files.move(text, place.resolve("moved"));
        Files.copy(place.resolve("moved"), place.resolve("copy"));
        Files.move(place.resolve("copy"), place.resolve("moved"), StandardCopyOption.REPLACE_EXISTING);
        Files.setPosixFilePermissions(place.resolve("moved"), PosixFilePermissions.fromString("rw-------"));
        Files.createSymbolicLink(place.resolve("link"), Path.of("nowhere"));
        Files.createLink(place.resolve("hard"), place.resolve("moved"));
        Files.createTempFile(place, "a", "b");
        try {
            Files.delete(place.resolve("nothing"));
        } catch (NoSuchFileException expected) {
            System.out.println(expected.getMessage());
        }
        int code = new ProcessBuilder("/bin/sh", "-c", "echo from java > inner; exit 3").directory(place.toFile()).start().waitFor();
        try {
            new ProcessBuilder("/nonexistent/program").start();
        } catch (IOException expected) {
            System.out.println(expected.getMessage());
        }
        try (ServerSocket server = new ServerSocket(7305, 5, InetAddress.getLoopbackAddress())) {
            Thread client = new Thread(() -> {
                try (Socket socket = new Socket(InetAddress.getLoopbackAddress(), 7305)) {
                    socket.getOutputStream().write(code);
                } catch (IOException error) {
                    throw new IllegalStateException(error);
                }
            });
            client.start();
            try (Socket socket = server.accept()) {
                System.out.println(socket.getInputStream().read());
            }
            client.join();
        }
        try (var names = Files.list(place)) {
            for (Path name : names.toList()) {
                Files.delete(name);
            }
        }
        Files.delete(place);
    }
}
