// Kafka settings from Google's Secret Manager, for the Java processes of a job on Dataflow, which have no files of ours.
//
// Added to Beam's and Kafka's classes, replaces none. `${secretmanager:projects/P/secrets/S/versions/latest:sasl.jaas.config}`
// stands for that setting in the Java properties that the secret holds (kafka_config.py makes such references). The
// process's own identity reads it, by a token of the metadata server. Only the JDK is used: the secret must not depend
// on the versions of Google's libraries that a worker happens to have.
package amibeam;

import java.io.IOException;
import java.io.StringReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.kafka.common.config.ConfigData;
import org.apache.kafka.common.config.ConfigException;
import org.apache.kafka.common.config.provider.ConfigProvider;

public class SecretManagerConfigProvider implements ConfigProvider {
  private static final Pattern NAME =
      Pattern.compile("projects/[A-Za-z0-9:.-]+/secrets/[A-Za-z0-9_-]{1,255}/versions/(latest|[0-9]+)");
  private static final Pattern TOKEN = Pattern.compile("\"access_token\"\\s*:\\s*\"([^\"]+)\"");
  private static final Pattern DATA = Pattern.compile("\"data\"\\s*:\\s*\"([^\"]*)\"");
  private static final Duration PATIENCE = Duration.ofSeconds(30);
  private String secrets = "https://secretmanager.googleapis.com";
  private String metadata = "http://metadata.google.internal";

  @Override
  public void configure(Map<String, ?> configs) {
    // config.providers.secretmanager.param.endpoint: a private endpoint, or a test's.
    if (configs.get("endpoint") != null) {
      secrets = configs.get("endpoint").toString();
    }
    if (configs.get("metadata") != null) {
      metadata = configs.get("metadata").toString();
    }
  }

  @Override
  public ConfigData get(String path) {
    Map<String, String> found = new HashMap<>();
    read(path).forEach((name, value) -> found.put(name.toString(), value.toString()));
    return new ConfigData(found);
  }

  @Override
  public ConfigData get(String path, Set<String> keys) {
    Properties held = read(path);
    Map<String, String> found = new HashMap<>();
    for (String key : keys) {
      if (held.getProperty(key) == null) {
        throw new ConfigException("Secret " + path + " has no " + key);
      }
      found.put(key, held.getProperty(key));
    }
    return new ConfigData(found);
  }

  @Override
  public void close() {}

  private Properties read(String path) {
    if (!NAME.matcher(path).matches()) {
      throw new ConfigException("No name of a secret's version: " + path);
    }
    try {
      HttpClient client = HttpClient.newBuilder().connectTimeout(PATIENCE).build();
      HttpRequest identity =
          HttpRequest.newBuilder(URI.create(metadata + "/computeMetadata/v1/instance/service-accounts/default/token"))
              .header("Metadata-Flavor", "Google").timeout(PATIENCE).build();
      String token = first(TOKEN, answer(client, identity, "the metadata server"));
      HttpRequest access =
          HttpRequest.newBuilder(URI.create(secrets + "/v1/" + path + ":access"))
              .header("Authorization", "Bearer " + token).timeout(PATIENCE).build();
      String data = first(DATA, answer(client, access, "Secret Manager, about " + path + ","));
      Properties properties = new Properties();
      properties.load(new StringReader(new String(Base64.getDecoder().decode(data), StandardCharsets.UTF_8)));
      return properties;
    } catch (IOException error) {
      throw new ConfigException("Secret " + path + " cannot be read: " + error.getClass().getSimpleName());
    } catch (InterruptedException error) {
      Thread.currentThread().interrupt();
      throw new ConfigException("Interrupted while secret " + path + " was read");
    }
  }

  // Of an answer that is not 200 only the number is told: what it says may quote what was asked with.
  private static String answer(HttpClient client, HttpRequest request, String who)
      throws IOException, InterruptedException {
    HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
    if (response.statusCode() != 200) {
      throw new ConfigException(who + " answers " + response.statusCode());
    }
    return response.body();
  }

  private static String first(Pattern pattern, String text) {
    Matcher found = pattern.matcher(text);
    if (!found.find()) {
      throw new ConfigException("An answer of Google's has not what is looked for");
    }
    return found.group(1);
  }
}
