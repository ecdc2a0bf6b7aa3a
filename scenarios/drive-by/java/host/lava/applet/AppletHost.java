package lava.applet;

import java.io.FilePermission;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Path;
import java.security.AllPermission;
import java.security.CodeSource;
import java.security.Permission;
import java.security.PermissionCollection;
import java.security.Permissions;
import java.security.Policy;
import java.security.ProtectionDomain;
import java.util.jar.JarFile;

/**
 * Runs the applet of an untrusted jar in a sandbox, as a browser's plug-in once did: {@code AppletHost APPLET.jar}.
 *
 * <p>The sandbox is Java's own: a SecurityManager, and a class loader whose classes have no permission but to read the
 * marker. This program is fictitious, and so is its flaw ({@link ClassFinder}); it belongs to LAVA's drive-by scenario.
 */
public final class AppletHost {
    private AppletHost() {}

    @SuppressWarnings("removal")
    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 1) {
            System.err.println("usage: AppletHost APPLET.jar");
            System.exit(2);
        }
        if (!Marker.present()) {
            System.err.println(Marker.REFUSAL);
            System.exit(Marker.REFUSED);
        }
        Path jar = Path.of(arguments[0]).toAbsolutePath();
        String name;
        try (JarFile file = new JarFile(jar.toFile())) {
            name = file.getManifest().getMainAttributes().getValue("Applet-Class");
        }
        if (name == null) {
            System.err.println(jar + ": its manifest names no Applet-Class");
            System.exit(2);
        }
        Policy.setPolicy(new HostPolicy());
        System.setSecurityManager(new SecurityManager());
        int code;
        try (AppletLoader loader = new AppletLoader(jar.toUri().toURL())) {
            code = ((Applet) loader.loadClass(name).getDeclaredConstructor().newInstance()).run();
        } catch (SecurityException denied) {
            System.err.println("the sandbox denied: " + denied.getMessage());
            code = 1;
        }
        System.exit(code);
    }

    /** Gives the classes of one jar no permission but to read the marker. */
    private static final class AppletLoader extends URLClassLoader {
        AppletLoader(URL jar) {
            super(new URL[] {jar}, AppletHost.class.getClassLoader());
        }

        @Override
        protected PermissionCollection getPermissions(CodeSource source) {
            Permissions permissions = new Permissions();
            permissions.add(new FilePermission(Marker.PATH, "read"));
            return permissions;
        }
    }

    /** Trusts Java itself and this program; everybody else has what his class loader gave him. */
    @SuppressWarnings("removal")
    private static final class HostPolicy extends Policy {
        private final CodeSource own = AppletHost.class.getProtectionDomain().getCodeSource();

        @Override
        public PermissionCollection getPermissions(ProtectionDomain domain) {
            Permissions permissions = new Permissions();
            if (trusted(domain)) {
                permissions.add(new AllPermission());
            }
            return permissions;
        }

        @Override
        public boolean implies(ProtectionDomain domain, Permission permission) {
            if (trusted(domain)) {
                return true;
            }
            PermissionCollection given = domain.getPermissions();
            return given != null && given.implies(permission);
        }

        private boolean trusted(ProtectionDomain domain) {
            CodeSource source = domain.getCodeSource();
            if (source == null || source.getLocation() == null) {
                return false;
            }
            return source.getLocation().equals(own.getLocation()) || source.getLocation().getProtocol().equals("jrt");
        }
    }
}
