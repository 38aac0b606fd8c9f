// A real OAuth server for the tests: client credentials in, signed tokens (RS256) that live TTL seconds out. Prints a line when it listens and one for each token.
import { Provider } from 'oidc-provider';
import { createServer } from 'node:http';
import { generateKeyPairSync, randomUUID } from 'node:crypto';

const { PORT, AUDIENCE, CLIENT_SECRET } = process.env;
const issuer = `http://127.0.0.1:${PORT}`;
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const provider = new Provider(issuer, {
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg: 'RS256', use: 'sig' }] },
  cookies: { keys: [randomUUID()] },
  scopes: ['kafka'],
  clients: [{
    client_id: 'veilstream', client_secret: CLIENT_SECRET, grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    token_endpoint_auth_method: 'client_secret_basic',
  }],
  // Kafka reads the name of the client from `sub`.
  extraTokenClaims: (_, token) => ({ sub: token.clientId }),
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => AUDIENCE,
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({
        scope: 'kafka', audience: AUDIENCE, accessTokenTTL: Number(process.env.TTL), accessTokenFormat: 'jwt', jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
provider.on('grant.success', () => console.log('token'));
createServer(provider.callback()).listen(Number(PORT), '127.0.0.1', () => console.log('listens'));
