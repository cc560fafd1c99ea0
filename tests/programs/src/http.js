// An HTTP server, or a client that is told on its standard input what to do:
// "CONNECTIONS REQUESTS" opens so many connections and makes so many requests on each, one
// after the other, and answers with the number of bytes it received, every one checked.
const http = require('http');
const readline = require('readline');

const body = Buffer.alloc(16384);
for (let i = 0; i < body.length; i++) body[i] = i % 251;

function serve(host, port) {
  const server = http.createServer((request, response) => {
    request.resume();
    response.writeHead(200, { 'Content-Length': body.length });
    response.end(body);
  });
  server.keepAliveTimeout = 60000;
  server.listen(port, host);
}

function get(options) {
  return new Promise((resolve, reject) => {
    http.get(options, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part));
      response.on('error', reject);
      response.on('end', () => {
        const data = Buffer.concat(parts);
        if (data.equals(body)) resolve(data.length);
        else reject(new Error(`wrong body of ${data.length} bytes`));
      });
    }).on('error', reject);
  });
}

async function fetch(host, port, requests) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  let total = 0;
  for (let i = 0; i < requests; i++) total += await get({ host, port, path: '/', agent });
  agent.destroy();
  return total;
}

async function client(host, port) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [connections, requests] = line.split(' ').map(Number);
    try {
      const each = Array.from({ length: connections }, () => fetch(host, port, requests));
      const sum = (await Promise.all(each)).reduce((a, b) => a + b, 0);
      console.log(`ok ${sum}`);
    } catch (error) {
      console.log(`error ${error.message}`);
    }
  }
}

const [, , mode, address] = process.argv;
const [host, port] = address.split(':');
if (mode === 'serve') serve(host, Number(port));
else client(host, Number(port));
