// Swagger UI shows /openapi.json; its files come with the package fastapi-offline.
const place = document.getElementById("swagger");
if (place) window.SwaggerUIBundle({ url: "/openapi.json", domNode: place, deepLinking: true, validatorUrl: null });
