// logback: Logback LOGGER MESSAGE...
import org.slf4j.LoggerFactory;

class Logback {
    public static void main(String[] arguments) {
        var log = LoggerFactory.getLogger(arguments[0]);
        for (int i = 1; i < arguments.length; i++) {
            log.info(arguments[i]);
        }
    }
}
